"""The order of starting and stopping, and what happens when a part cannot start."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ConfigError
from fleetspeak.server.lifecycle import Step, SteppedService


class LifecycleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[str] = []
        self.reactor = MemoryReactorClock()

    def note(self, event: str) -> Callable[[], None]:
        return lambda: self.events.append(event)

    def part(self, name: str) -> Step:
        return Step(name, self.note(f"+{name}"), self.note(f"-{name}"))

    def run_service(self, *steps: Step) -> SteppedService:
        service = SteppedService(steps, self.note("started"), self.note("gave up"), self.reactor)
        service.startService()
        self.assertEqual(self.events, [], "nothing happens before the reactor runs")
        self.reactor.run()
        return service

    def test_parts_start_in_order_and_stop_in_the_opposite_one(self) -> None:
        service = self.run_service(self.part("a"), self.part("b"), Step("c"))
        self.successResultOf(service.stopService())
        self.assertEqual(self.events, ["+a", "+b", "started", "-b", "-a"])

    def test_each_part_waits_for_the_one_before(self) -> None:
        slow: Deferred[None] = Deferred()
        self.run_service(Step("a", lambda: slow), self.part("b"))
        self.assertEqual(self.events, [])
        slow.callback(None)
        self.assertEqual(self.events, ["+b", "started"])

    def test_a_part_that_cannot_start_is_one_clear_line_and_no_half_started_process(self) -> None:
        def refuse() -> None:
            raise ConfigError("the address is taken")

        with capturedLogs() as lines:
            self.run_service(self.part("a"), Step("b", refuse, self.note("-b")), self.part("c"))
        self.assertEqual(self.events, ["+a", "-a", "gave up"])
        [line] = lines
        self.assertEqual(line["log_level"], LogLevel.critical)
        self.assertNotIn("log_failure", line)
        self.assertEqual(str(line["error"]), "the address is taken")

    def test_a_defect_shows_its_traceback(self) -> None:
        with capturedLogs() as lines:
            self.run_service(Step("a", lambda: 1 / 0))  # type: ignore[arg-type, return-value]
        self.assertEqual(self.events, ["gave up"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        [line] = lines
        self.assertEqual((line["part"], line["kind"]), ("a", "ZeroDivisionError"))

    def test_a_stop_during_the_start_waits_for_the_part_that_is_starting(self) -> None:
        slow: Deferred[None] = Deferred()
        service = self.run_service(self.part("a"), Step("b", lambda: slow, self.note("-b")), self.part("c"))
        stopped = service.stopService()
        self.assertNoResult(stopped)
        slow.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.events, ["+a", "-b", "-a"])

    def test_a_stop_before_the_reactor_runs(self) -> None:
        service = SteppedService([self.part("a")], self.note("started"), self.note("gave up"), self.reactor)
        service.startService()
        self.successResultOf(service.stopService())
        self.reactor.run()
        self.assertEqual(self.events, [])

    def test_one_part_that_fails_to_stop_does_not_keep_the_others(self) -> None:
        service = self.run_service(self.part("a"), Step("b", stop=lambda: 1 / 0))  # type: ignore[arg-type, return-value]
        self.successResultOf(service.stopService())
        self.assertEqual(self.events, ["+a", "started", "-a"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
