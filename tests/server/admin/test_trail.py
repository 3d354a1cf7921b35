"""The audit trail: nothing is changed without an entry, and everything gets its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak import rpc
from fleetspeak.core.adminaccess import Role
from fleetspeak.errors import InvalidRecord, StoreError
from fleetspeak.pb import admin, broadcasts, common
from fleetspeak.records import AuditCall, AuditEnd, AuditEntry, AuditFilter
from fleetspeak.server.admin.access import Caller, Denied
from fleetspeak.server.admin.served import Served
from fleetspeak.server.admin.server import AdminServer
from fleetspeak.server.admin.trail import DENIALS, MAX_WAITING, RETRY, Trail
from fleetspeak.store.memory import MemoryStore
from tests.server.admin.case import ADMIN, C1, AdminCase

INSERT = "fleetspeak.server.Admin/InsertMessage"
ALICE = Caller("alice", "192.0.2.1:5", Role.OPERATOR)


class FailingStore(MemoryStore):
    """One that can be told to fail."""

    broken = False
    waiting: Deferred[Any] | None = None

    def begin_audit(self, calls: Sequence[AuditCall]) -> Deferred[list[int | StoreError]]:
        return fail(StoreError("the disk is full")) if self.broken else super().begin_audit(calls)

    def end_audit(self, ends: Sequence[AuditEnd]) -> Deferred[list[StoreError | None]]:
        return fail(StoreError("the disk is full")) if self.broken else super().end_audit(ends)


class TrailCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FailingStore(now_ns=lambda: int(self.clock.seconds() * 1e9))
        self.successResultOf(self.store.open())
        self.trail = Trail(self.store, self.clock)
        self.done: list[Any] = []

    def entries(self) -> list[AuditEntry]:
        return self.successResultOf(self.store.audit_entries(AuditFilter(), 1000))

    def follow(self, work: Any = None, request: Any = None) -> Deferred[Any]:
        async def note(request: Any) -> str:
            self.done.append(request)
            return "reply"

        return Deferred.fromCoroutine(
            self.trail.follow(ALICE, INSERT, work or note, common.Message() if request is None else request)
        )


class FollowTests(TrailCase):
    def test_a_call_that_succeeds(self) -> None:
        request = common.Message(message_id=b"1" * 32)
        self.assertEqual(self.successResultOf(self.follow(request=request)), "reply")
        [entry] = self.entries()
        self.assertEqual(entry.call, AuditCall("alice", "192.0.2.1:5", "operator", INSERT, f"message_id={'31' * 32}"))
        self.assertEqual((entry.outcome, entry.detail), ("OK", ""))

    def test_the_entry_is_there_before_anything_is_done(self) -> None:
        seen: list[AuditEntry] = []

        async def work(request: Any) -> None:
            seen.extend(self.entries())

        self.successResultOf(self.follow(work))
        self.assertEqual([entry.outcome for entry in seen], [""])

    def test_a_call_that_fails(self) -> None:
        async def work(request: Any) -> None:
            raise InvalidRecord("this is wrong")

        self.failureResultOf(self.follow(work), InvalidRecord)
        self.assertEqual([(e.outcome, e.detail) for e in self.entries()], [("INVALID_ARGUMENT", "this is wrong")])

    def test_a_call_that_is_cancelled_may_have_had_its_effect(self) -> None:
        call = self.follow(lambda request: Deferred())
        self.clock.advance(2)
        call.cancel()
        self.failureResultOf(call, CancelledError)
        [entry] = self.entries()
        self.assertEqual((entry.outcome, entry.duration_ns), ("CANCELLED", 2 * 10**9))
        self.assertIn("may have had its effect", entry.detail)

    def test_without_an_entry_nothing_is_done(self) -> None:
        self.store.broken = True
        error = self.failureResultOf(self.follow(), StoreError).value
        self.assertEqual(str(error), "nothing was done, because the audit trail cannot be written: the disk is full")
        self.assertEqual(self.done, [])

    def test_ids_are_chosen_before_the_entry_is_written(self) -> None:
        message = common.Message()
        self.successResultOf(self.follow(request=message))
        created = admin.CreateBroadcastRequest(broadcast=broadcasts.Broadcast())
        self.successResultOf(self.follow(request=created))
        self.assertEqual((len(message.message_id), len(created.broadcast.broadcast_id)), (32, 8))
        first, second = self.entries()
        self.assertEqual(first.call.request, f"message_id={message.message_id.hex()}")
        self.assertEqual(second.call.request, f"broadcast.broadcast_id={created.broadcast.broadcast_id.hex()}")

    def test_a_broadcast_that_is_missing_stays_missing(self) -> None:
        request = admin.CreateBroadcastRequest()
        self.successResultOf(self.follow(request=request))
        self.assertFalse(request.HasField("broadcast"))


class TogetherTests(TrailCase):
    """Calls whose operations write their entries together with what they change."""

    def together(self, work: Any, request: Any = None) -> Deferred[Any]:
        request = common.Message() if request is None else request
        return Deferred.fromCoroutine(self.trail.together(ALICE, INSERT, work, request))

    async def work(self, request: common.Message, audit: AuditCall) -> str:
        request.creation_time.seconds = 1
        await self.store.store_messages([request], audit=audit)
        return "reply"

    def test_the_operation_writes_it(self) -> None:
        self.assertEqual(self.successResultOf(self.together(self.work)), "reply")
        [entry] = self.entries()
        self.assertEqual((entry.call.caller, entry.outcome), ("alice", "OK"))
        self.assertRegex(entry.call.request, "^message_id=[0-9a-f]{64}$")

    def test_what_was_not_carried_out_is_written_down_here(self) -> None:
        async def refuse(request: Any, audit: AuditCall) -> None:
            self.clock.advance(1)
            raise InvalidRecord("this is wrong")

        self.failureResultOf(self.together(refuse), InvalidRecord)
        [entry] = self.entries()
        self.assertEqual((entry.outcome, entry.detail, entry.duration_ns), ("INVALID_ARGUMENT", "this is wrong", 10**9))

    def test_a_store_that_fails_has_neither(self) -> None:
        async def fail_to_store(request: Any, audit: AuditCall) -> None:
            self.store.broken = True
            raise StoreError("the disk is full")

        self.failureResultOf(self.together(fail_to_store), StoreError)
        self.store.broken = False
        self.assertEqual(self.entries(), [])

    def test_a_call_that_is_cancelled_has_its_entry_if_it_had_its_effect(self) -> None:
        async def work(request: common.Message, audit: AuditCall) -> None:
            await self.work(request, audit)
            await Deferred()

        call = self.together(work)
        call.cancel()
        self.failureResultOf(call, CancelledError)
        self.assertEqual([entry.outcome for entry in self.entries()], ["OK"])


class OutcomeTests(TrailCase):
    """They follow behind the calls, and are not lost while the store fails."""

    def break_after_begin(self) -> None:
        async def work(request: Any) -> None:
            self.store.broken = True

        self.successResultOf(self.follow(work))

    def test_they_are_tried_again(self) -> None:
        self.break_after_begin()
        self.assertEqual([entry.outcome for entry in self.entries()], [""])
        self.clock.advance(RETRY)
        self.assertEqual([entry.outcome for entry in self.entries()], [""])
        self.store.broken = False
        self.clock.advance(RETRY)
        self.assertEqual([entry.outcome for entry in self.entries()], ["OK"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_tries_once_more(self) -> None:
        self.break_after_begin()
        self.store.broken = False
        self.successResultOf(Deferred.fromCoroutine(self.trail.stop()))
        self.assertEqual([entry.outcome for entry in self.entries()], ["OK"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_does_not_wait_for_a_store_that_fails(self) -> None:
        self.break_after_begin()
        self.successResultOf(Deferred.fromCoroutine(self.trail.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_waits_is_bounded(self) -> None:
        self.store.broken = True
        for number in range(MAX_WAITING + 500):
            self.trail.ended(AuditEnd(number, "OK", "", 1))
        self.assertLessEqual(len(self.trail._ends), MAX_WAITING)

    def test_many_at_a_time(self) -> None:
        """While one batch is being written the next one gathers."""
        slow: Deferred[list[StoreError | None]] = Deferred()
        batches: list[int] = []

        def end_audit(ends: Sequence[AuditEnd]) -> Deferred[list[StoreError | None]]:
            batches.append(len(ends))
            return slow if len(batches) == 1 else succeed([None] * len(ends))

        self.store.end_audit = end_audit  # type: ignore[method-assign, assignment]
        for number in range(10):
            self.trail.ended(AuditEnd(number, "OK", "", 1))
        settled = Deferred.fromCoroutine(self.trail.settled())
        self.assertNoResult(settled)
        slow.callback([None])
        self.successResultOf(settled)
        self.assertEqual(batches, [1, 9])


class DenialTests(TrailCase):
    def deny(self, times: int = 1) -> None:
        for _ in range(times):
            who = Caller("unknown", "192.0.2.7:5", Role.NOBODY)
            self.trail.denied(INSERT, Denied("UNAUTHENTICATED", "who are you?", who))

    def test_it_is_written_down(self) -> None:
        self.deny()
        [entry] = self.entries()
        self.assertEqual(entry.call, AuditCall("unknown", "192.0.2.7:5", "", INSERT, ""))
        self.assertEqual((entry.outcome, entry.detail), ("UNAUTHENTICATED", "who are you?"))

    def test_an_attacker_cannot_fill_the_disk(self) -> None:
        self.deny(10_000)
        self.assertEqual(len(self.entries()), DENIALS)
        self.clock.advance(5)
        self.deny(10_000)
        entries = self.entries()
        self.assertEqual(len(entries), DENIALS + 5)
        self.assertEqual(
            entries[DENIALS].call.request,
            f"{10_000 - DENIALS} calls that were refused before this one are not written down",
        )
        self.assertEqual(entries[-1].call.request, "")

    def test_a_store_that_is_slow_holds_up_no_more_than_some(self) -> None:
        begun: list[object] = []

        def begin_audit(calls: Sequence[AuditCall]) -> Deferred[list[int | StoreError]]:
            begun.append(calls)
            return Deferred()

        self.store.begin_audit = begin_audit  # type: ignore[method-assign, assignment]
        for _ in range(100):
            self.clock.advance(10)
            self.deny(10)
        self.assertEqual(len(begun), DENIALS)

    def test_a_store_that_fails(self) -> None:
        self.store.broken = True
        self.deny(3)
        self.store.broken = False
        self.assertEqual(self.entries(), [])


class CallerTests(AdminCase):
    """An operation that wants to know the caller is followed like any other."""

    async def test_it_is_written_down(self) -> None:
        seen: list[Caller] = []

        class Blacklisting:
            async def blacklist_client(self, request: admin.BlacklistClientRequest, caller: Caller) -> Any:
                seen.append(caller)
                return common.EmptyMessage()

        server = AdminServer([Served(ADMIN, [Blacklisting()])], "127.0.0.1", 0, reactor, trail=self.trail)
        server.start()
        self.addCleanup(server.stop)
        channel = grpc.insecure_channel(server.address)
        self.addCleanup(deferToThread, channel.close)
        stub: Any = rpc.admin.AdminStub(channel)
        await deferToThread(stub.BlacklistClient, admin.BlacklistClientRequest(client_id=C1), timeout=30)
        await self.trail.settled()
        [entry] = await self.store.audit_entries(AuditFilter(), 10)
        self.assertEqual((entry.call.caller, entry.outcome), (seen[0].name, "OK"))
