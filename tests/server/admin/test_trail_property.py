"""The audit trail under anything that can go wrong: nothing is done without an entry, and no outcome is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.adminaccess import Role
from fleetspeak.errors import InvalidRecord, StoreError
from fleetspeak.pb import common
from fleetspeak.records import AuditCall, AuditEnd, AuditFilter
from fleetspeak.server.admin.access import Caller
from fleetspeak.server.admin.trail import RETRY, Trail
from fleetspeak.store.memory import MemoryStore

ALICE = Caller("alice", "192.0.2.1:5", Role.OPERATOR)


class SlowStore(MemoryStore):
    """Carries out what it was asked for when it is told, and fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Any, Deferred[Any]]] = []
        self.failing = False

    def _later(self, work: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((work, done))
        return done

    def begin_audit(self, calls: Sequence[AuditCall]) -> Deferred[list[int | StoreError]]:
        return self._later(lambda: super(SlowStore, self).begin_audit(calls))

    def end_audit(self, ends: Sequence[AuditEnd]) -> Deferred[list[StoreError | None]]:
        return self._later(lambda: super(SlowStore, self).end_audit(ends))

    def go_on(self) -> None:
        """Carry out the next one, also if its caller has given it up, as a transaction that is under way."""
        if self.waiting:
            work, done = self.waiting.pop(0)
            outcome = fail(StoreError("the disk is full")) if self.failing else work()
            if done.called:  # it was cancelled
                outcome.addErrback(lambda failure: failure.trap(StoreError))
            else:
                outcome.chainDeferred(done)


@dataclass
class Work:
    """A call that is followed."""

    outcome: Deferred[Any]
    operation: Deferred[None]
    begun: bool = False


STEPS = st.lists(
    st.one_of(
        st.just(("call",)),
        st.just(("store",)),
        st.just(("time",)),
        st.tuples(st.just("disk"), st.booleans()),
        st.tuples(st.sampled_from(["done", "failed", "cancel"]), st.integers(0, 5)),
    ),
    max_size=60,
)


class AnythingTests(SynchronousTestCase):
    @given(STEPS)
    def test_nothing_without_an_entry_and_every_outcome(self, steps: list[tuple[Any, ...]]) -> None:
        clock, store = Clock(), SlowStore()
        self.successResultOf(store.open())
        trail = Trail(store, clock)
        calls: list[Work] = []

        def call() -> None:
            number = len(calls)

            async def operation(request: Any) -> None:
                calls[number].begun = True
                await calls[number].operation

            request = common.Message(message_id=number.to_bytes(32, "big"))
            calls.append(Work(Deferred(), Deferred()))
            calls[number].outcome = Deferred.fromCoroutine(trail.follow(ALICE, "a.B/C", operation, request))
            calls[number].outcome.addErrback(lambda _: None)

        def check() -> None:
            entries = self.successResultOf(store.audit_entries(AuditFilter(), 1000))
            written = {int(entry.call.request.partition("=")[2], 16) for entry in entries}
            self.assertLessEqual({number for number, work in enumerate(calls) if work.begun}, written)

        for name, *arguments in steps:
            if name == "call":
                call()
            elif name == "store":
                store.go_on()
            elif name == "time":
                clock.advance(RETRY)
            elif name == "disk":
                store.failing = arguments[0]
            elif arguments[0] < len(calls):
                work = calls[arguments[0]]
                if name == "cancel":
                    work.outcome.cancel()
                elif work.begun and not work.operation.called:
                    work.operation.callback(None) if name == "done" else work.operation.errback(InvalidRecord("no"))
            check()

        store.failing = False
        for work in calls:
            if not work.operation.called:
                work.operation.callback(None)
        for _ in range(3 * len(calls) + 10):
            store.go_on()
            clock.advance(RETRY)
        check()
        entries = self.successResultOf(store.audit_entries(AuditFilter(), 1000))
        outcomes = {int(entry.call.request.partition("=")[2], 16): entry.outcome for entry in entries}
        self.assertEqual([n for n, work in enumerate(calls) if work.begun and not outcomes[n]], [])
