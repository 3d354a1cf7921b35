"""Whatever comes, at whatever services, in whatever order: bounds are kept, and every message is done or pending."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fleetspeak.core.retrytimes import DEAD
from fleetspeak.errors import PermanentError, TemporaryError
from fleetspeak.ids import MessageId
from fleetspeak.interfaces import IBatchServerService, IServerService
from fleetspeak.pb import common
from fleetspeak.records import RetryLimits
from fleetspeak.server.services.backlog import Backlog
from fleetspeak.server.services.manager import PROCESSING_LIMIT, ServiceManager
from fleetspeak.server.services.runner import LINE_FACTOR, ServiceRunner
from fleetspeak.store.memory import MemoryStore
from tests.server.services.doubles import message

PARALLELISM = 2
ENDS = ("good", "never", "not now", "broken", "exit")
ERRORS: dict[str, BaseException] = {
    "never": PermanentError("never"),
    "not now": TemporaryError("not now"),
    "broken": ValueError("broken"),
    "exit": SystemExit(1),
}


@implementer(IServerService)
class Anything:
    """Ends each call as the test says: at once, or later."""

    def __init__(self) -> None:
        self.at_once: str | None = None
        self.running: list[Deferred[None]] = []
        self.most = 0

    def start(self) -> None:
        """Ready."""

    def stop(self) -> None:
        """Done."""

    def process(self, message: common.Message) -> Awaitable[None] | None:
        assert message.data.value == b"payload", "what is processed again has its payload"
        if self.at_once == "good":
            return None
        if self.at_once is not None:
            raise ERRORS[self.at_once]
        work: Deferred[None] = Deferred()
        self.running.append(work)
        work.addBoth(self._forget, work)
        self.most = max(self.most, len(self.running))
        return work

    def _forget(self, result: Any, work: Deferred[None]) -> Any:
        self.running.remove(work)
        return result

    def end(self, how: str) -> None:
        """End the oldest call."""
        if self.running:
            if how == "good":
                self.running[0].callback(None)
            else:
                self.running[0].errback(ERRORS[how])


@implementer(IBatchServerService)
class AnyList(Anything):
    """The same, for lists; what ends well ends so for every second message only."""

    def process_batch(self, messages: Sequence[common.Message]) -> Any:
        outcome = self.process(messages[0])
        mixed = [None if number % 2 == 0 else TemporaryError("not now") for number in range(len(messages))]
        if isinstance(outcome, Deferred):
            return outcome.addCallback(lambda _: mixed)
        return mixed


actions = st.one_of(
    st.tuples(st.just("send"), st.lists(st.sampled_from(["one", "list", "nobody"]), max_size=15), st.booleans()),
    st.tuples(st.just("end"), st.sampled_from(["one", "list"]), st.sampled_from(ENDS)),
    st.tuples(st.just("at once"), st.sampled_from(["one", "list"]), st.sampled_from([None, None, *ENDS])),
    st.tuples(st.just("cancel"), st.integers(0, 5), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([1, 5, PROCESSING_LIMIT]), st.none()),
)


class AnythingTests(SynchronousTestCase):
    @settings(max_examples=80, deadline=None)
    @given(st.lists(actions, max_size=40))
    def test_anything(self, steps: list[Any]) -> None:
        self.clock = Clock()
        self.manager = ServiceManager(self.clock, lambda: 1)
        self.services = {"one": Anything(), "list": AnyList()}
        for name, service in self.services.items():
            self.manager.add(name, service, max_parallelism=PARALLELISM)
        self.contacts: list[tuple[Deferred[None], list[common.Message]]] = []
        for kind, what, how in steps:
            self.act(kind, what, how)
            self.check()
        self.clock.advance(PROCESSING_LIMIT)
        for done, sent in self.contacts:
            done.addErrback(lambda failure: failure.trap(CancelledError))
            self.successResultOf(done)
            for each in sent:
                pending = not each.HasField("result")
                self.assertEqual(each.HasField("data"), pending, "a payload is kept exactly as long as it is needed")
        for runner in self.runners():
            self.assertEqual((runner._running, runner._in_line, runner._line_bytes), (0, 0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.flushLoggedErrors(ValueError, SystemExit)

    def act(self, kind: str, what: Any, how: Any) -> None:
        if kind == "send":
            sent = [message(name, number=number) for number, name in enumerate(what)]
            done = Deferred.fromCoroutine(self.manager.process(sent, None, how))
            self.contacts.append((done, sent))
        elif kind == "end":
            self.services[what].end(how)
        elif kind == "at once":
            self.services[what].at_once = how
        elif kind == "cancel" and self.contacts:
            self.contacts[what % len(self.contacts)][0].cancel()
        elif kind == "wait":
            self.clock.advance(what)

    def check(self) -> None:
        """Bounds, at any time."""
        for service in self.services.values():
            self.assertLessEqual(service.most, PARALLELISM)
        for runner in self.runners():
            waiting = [call for line in (runner._old, runner._new) for call in line]
            self.assertEqual(runner._in_line, sum(len(call.messages) for call in waiting))
            self.assertEqual(runner._line_bytes, sum(call.size for call in waiting))
            self.assertTrue(not waiting or runner._running == PARALLELISM, "nobody waits beside a free place")
            new = sum(len(call.messages) for call in runner._new)
            self.assertLessEqual(new, max(LINE_FACTOR * PARALLELISM, 15))

    def runners(self) -> list[ServiceRunner]:
        return list(self.manager._runners.values())


stored_actions = st.one_of(
    st.tuples(st.just("keep"), st.lists(st.sampled_from(["one", "list", "nobody"]), min_size=1, max_size=15)),
    st.tuples(st.just("end"), st.tuples(st.sampled_from(["one", "list"]), st.sampled_from(ENDS))),
    st.tuples(st.just("at once"), st.tuples(st.sampled_from(["one", "list"]), st.sampled_from([None, None, *ENDS]))),
    st.tuples(st.just("wait"), st.sampled_from([1, 30, 120, 3600])),
    st.tuples(st.just("retry"), st.none()),
    st.tuples(st.just("restart"), st.none()),
)
all_limits = st.builds(
    RetryLimits, st.just(600 * 10**9), st.none() | st.just(1800 * 10**9), st.none() | st.integers(2, 4)
)


class AnythingStoredTests(SynchronousTestCase):
    """The same by way of the backlog: nothing is lost, whatever is given up and taken up again."""

    @settings(max_examples=25, deadline=None)
    @given(st.lists(stored_actions, max_size=25), all_limits)
    def test_anything(self, steps: list[Any], limits: RetryLimits) -> None:
        self.clock = Clock()
        self.limits = limits
        self.store = MemoryStore(now_ns=self.now, uniform=lambda: 0.5)
        self.successResultOf(self.store.open())
        self.services = {"one": Anything(), "list": AnyList()}
        self.kept: list[MessageId] = []
        self.begin()
        for kind, what in steps:
            self.act(kind, what)
            self.check()
        for service in self.services.values():
            service.at_once = "good"
            while service.running:
                service.end("good")
        for _ in range(25):  # a list takes half of what it is given, and what dies is taken up again
            self.act("retry", None)
            self.wait(900)
        results = self.successResultOf(self.store.message_results(self.kept))
        self.assertEqual(set(results), set(self.kept))
        reasons = {result.failed_reason for result in results.values() if result.failed}
        self.assertLessEqual(reasons, {"never", 'unknown service "nobody"'})
        self.act("restart", None)
        self.successResultOf(Deferred.fromCoroutine(self.backlog.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.flushLoggedErrors(ValueError, SystemExit)

    def now(self) -> int:
        return 10**15 + int(self.clock.seconds() * 1e9)

    def begin(self) -> None:
        self.manager = ServiceManager(self.clock, self.now)
        for name, service in self.services.items():
            self.manager.add(name, service, max_parallelism=PARALLELISM)
        self.backlog = Backlog(self.store, self.manager, self.clock, self.now, uniform=lambda: 0.5, limits=self.limits)
        self.backlog.start()

    def wait(self, seconds: int) -> None:
        for _ in range(5):
            self.clock.advance(seconds / 5)

    def act(self, kind: str, what: Any) -> None:
        if kind == "keep":
            sent = [message(name, number=len(self.kept) + number) for number, name in enumerate(what)]
            for each in sent:
                each.creation_time.FromNanoseconds(self.now())
            self.kept += [MessageId(each.message_id) for each in sent]
            self.successResultOf(self.store.store_messages(sent))
        elif kind == "end":
            self.services[what[0]].end(what[1])
        elif kind == "at once":
            self.services[what[0]].at_once = what[1]
        elif kind == "wait":
            self.wait(what)
        elif kind == "retry":
            self.successResultOf(self.store.retry_messages(self.kept))
            self.backlog.wake()
        elif kind == "restart":
            stopped = Deferred.fromCoroutine(self.backlog.stop())
            drained = Deferred.fromCoroutine(self.manager.drain())
            self.clock.advance(PROCESSING_LIMIT)
            self.successResultOf(drained)
            self.successResultOf(stopped)
            self.begin()

    def check(self) -> None:
        """Who waits, and who is dead, has a payload; services have no more than they may."""
        for each in self.successResultOf(self.store.get_messages(self.kept, want_data=True)):
            kept = not each.HasField("result") or each.result.failed_reason.startswith(DEAD)
            self.assertEqual(each.HasField("data"), kept)
        for service in self.services.values():
            self.assertLessEqual(service.most, PARALLELISM)
