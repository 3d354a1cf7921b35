"""Whatever a service does, the process goes on, and no message is lost (server-core.md 3.4 [improve])."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService
from fleetspeak.pb import common
from fleetspeak.server.services.manager import PROCESSING_LIMIT
from tests.server.services.doubles import InstantService, SlowService, message
from tests.server.services.test_manager import ManagerCase

ENDS_A_PROCESS = (SystemExit(1), KeyboardInterrupt(), GeneratorExit())
RAISED = (*ENDS_A_PROCESS, ZeroDivisionError("oops"), MemoryError(), RecursionError(), AssertionError())


class Unprintable(Exception):
    """Cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnprintableRefusal(PermanentError, Unprintable):
    """The same, for good."""


class UnprintableDelay(TemporaryError, Unprintable):
    """The same, for now."""


class BadAwaitable:
    """Raises when it is awaited."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __await__(self) -> Generator[Any, None, None]:
        raise self.error


@implementer(IServerService)
class RaisingService(InstantService):
    """Raises `error` by one of several ways."""

    def __init__(self, error: BaseException, way: str) -> None:
        super().__init__()
        self.raised = error
        self.way = way

    def process(self, message: common.Message) -> Awaitable[None]:  # type: ignore[override]
        return getattr(self, self.way)()  # type: ignore[no-any-return]

    def at_once(self) -> Awaitable[None]:
        raise self.raised

    async def in_a_coroutine(self) -> None:
        raise self.raised

    async def in_a_coroutine_later(self) -> None:
        later: Deferred[None] = Deferred()
        later.errback(self.raised)
        await later

    def in_a_deferred(self) -> Awaitable[None]:
        return fail(self.raised)

    def in_a_callback(self) -> Awaitable[None]:
        def boom(_: None) -> None:
            raise self.raised

        return succeed(None).addCallback(boom)

    def in_an_awaitable(self) -> Awaitable[None]:
        return BadAwaitable(self.raised)


WAYS = (
    "at_once",
    "in_a_coroutine",
    "in_a_coroutine_later",
    "in_a_deferred",
    "in_a_callback",
    "in_an_awaitable",
)


class RaisingTests(ManagerCase):
    def test_by_whatever_way_the_message_stays_pending_and_others_are_processed(self) -> None:
        for error in RAISED:
            for way in WAYS:
                self.manager.add("broken", RaisingService(error, way))
                self.manager.add("hello", InstantService())
                bad, good = message("broken", 1), message(number=2)
                self.successResultOf(self.process(bad, good))
                self.assert_pending(bad)
                self.assert_processed(good)
                self.assertEqual(len(self.flushLoggedErrors(type(error))), 1, (error, way))

    def test_in_its_turn_behind_others(self) -> None:
        slow = SlowService()
        self.manager.add("hello", slow, max_parallelism=1)
        first, bad, last = (message(number=n) for n in range(3))
        done = self.process(first, bad, last)
        slow_process = slow.process

        def process(one: common.Message) -> Awaitable[None]:
            if one is bad:
                raise SystemExit(1)
            return slow_process(one)

        slow.process = process  # type: ignore[method-assign]
        slow.finish()
        slow.finish()
        self.successResultOf(done)
        self.assert_processed(first, last)
        self.assert_pending(bad)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)

    def test_when_it_is_cancelled(self) -> None:
        for error in RAISED:
            service, slow = InstantService(), SlowService()

            def cancel(_: Deferred[None], error: BaseException = error) -> None:
                raise error

            service.process = lambda _, cancel=cancel: Deferred(cancel)  # type: ignore[method-assign, misc]
            self.manager.add("broken", service)
            self.manager.add("slow", slow)
            sent = [message("slow", 1), message("broken", 2), message("slow", 3)]
            done = self.process(*sent)
            self.clock.advance(PROCESSING_LIMIT)
            self.successResultOf(done)
            self.assert_pending(*sent)
            self.assertEqual(slow.cancelled, 2)
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)

    def test_an_error_without_words(self) -> None:
        self.manager.add("refuses", InstantService(UnprintableRefusal()))
        self.manager.add("later", InstantService(UnprintableDelay()))
        self.manager.add("broken", InstantService(Unprintable()))
        refused, later, broken = message("refuses", 1), message("later", 2), message("broken", 3)
        self.successResultOf(self.process(refused, later, broken))
        self.assertTrue(refused.result.failed)
        self.assertIn("UnprintableRefusal", refused.result.failed_reason)
        self.assert_pending(later, broken)
        self.flushLoggedErrors(Unprintable)

    def test_at_start_it_is_named(self) -> None:
        service = InstantService()

        def start() -> None:
            raise SystemExit(1)

        service.start = start  # type: ignore[method-assign]
        self.manager.add("broken", service)
        failure = self.failureResultOf(Deferred.fromCoroutine(self.manager.start()), ConfigError)
        self.assertIn('service "broken" cannot start: SystemExit: 1', str(failure.value))
        self.flushLoggedErrors(SystemExit)

    def test_at_stop_the_others_are_stopped(self) -> None:
        first, broken = InstantService(), InstantService()

        def stop() -> None:
            raise SystemExit(1)

        broken.stop = stop  # type: ignore[method-assign]
        self.manager.add("first", first)
        self.manager.add("broken", broken)
        self.successResultOf(Deferred.fromCoroutine(self.manager.start()))
        self.successResultOf(Deferred.fromCoroutine(self.manager.stop()))
        self.assertEqual(first.events, ["start", "stop"])
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
