"""The way into the reactor and back, without either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.server.admin.hop import Hop
from fleetspeak.server.admin.operations import Refused


class FakeReactor:
    def callFromThread(self, function: Callable[..., None], *args: object) -> None:
        function(*args)


class FakeContext:
    """A call of the API."""

    def __init__(self, active: bool = True) -> None:
        self.active = active
        self.callbacks: list[Callable[[], None]] = []

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return self.active

    def time_remaining(self) -> float | None:
        return None


class HopTests(SynchronousTestCase):
    def hop(self, context: Any) -> Hop:
        return Hop(context, FakeReactor(), limit=0.01)

    def test_many_pages_leave_one_callback(self) -> None:
        """A stream must not hold what it has sent."""
        context = FakeContext()
        hop = self.hop(context)
        self.assertEqual([hop.run(succeed, page) for page in range(100)], list(range(100)))
        self.assertEqual(len(context.callbacks), 1)

    def test_work_whose_time_is_up_is_cancelled(self) -> None:
        cancelled: list[object] = []
        work: Deferred[None] = Deferred(cancelled.append)
        self.assertRaises(Refused, self.hop(FakeContext()).run, lambda: work)
        self.assertEqual(cancelled, [work])

    def test_nothing_is_begun_for_a_caller_that_has_gone(self) -> None:
        begun: list[None] = []
        hop = self.hop(FakeContext(active=False))
        self.assertRaises(CancelledError, hop.run, lambda: begun.append(None))
        self.assertEqual(begun, [])

    def test_what_the_work_raises_is_raised(self) -> None:
        def work() -> Deferred[None]:
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, self.hop(FakeContext()).run, work)
