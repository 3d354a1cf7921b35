"""What a caller can hold up is bounded: threads, memory, and the calls of others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak import rpc
from fleetspeak.pb import admin, common, operator
from fleetspeak.server.admin import server as module
from fleetspeak.server.admin.calls import MAX_STREAMS
from fleetspeak.server.admin.patience import Patience
from fleetspeak.server.admin.served import Served
from fleetspeak.server.admin.server import MAX_CALLS, THREADS, AdminServer
from tests.server.admin.case import ADMIN, OPERATOR, AdminCase

PAGE = 100
ENTRY = operator.AuditEntry(request="x" * 10_000)


class Endless:
    """An export without an end, and a call that waits until it is told."""

    def __init__(self) -> None:
        self.pages = 0
        self.closed = False
        self.waiting: list[Deferred[common.EmptyMessage]] = []
        self.cancelled = 0

    async def export_audit_entries(self, request: object) -> AsyncIterator[list[operator.AuditEntry]]:
        while True:
            self.pages += 1
            yield [ENTRY] * PAGE

    def keep_alive(self, request: object) -> Deferred[common.EmptyMessage]:
        def cancel(_: object) -> None:
            self.cancelled += 1

        self.waiting.append(Deferred(cancel))
        return self.waiting[-1]


class LimitsCase(AdminCase):
    async def setUp(self) -> None:
        await super().setUp()
        self.endless = Endless()
        services = [Served(OPERATOR, [self.endless]), Served(ADMIN, [self.endless, self.operations])]
        self.other = AdminServer(services, "127.0.0.1", 0, reactor)
        self.other.start()
        self.addCleanup(self.other.stop)
        self.other_channel = grpc.insecure_channel(self.other.address)
        self.addCleanup(deferToThread, self.other_channel.close)
        self.other_stub: Any = rpc.admin.AdminStub(self.other_channel)
        self.other_operator: Any = rpc.operator.OperatorStub(self.other_channel)

    def be_impatient(self, limit: float = 0.2) -> None:
        """From now on callers have so many seconds."""
        patience = self.other._patience
        patience._limit = limit
        patience.stop()
        patience.start()

    @property
    def free_streams(self) -> int:
        return self.other._calls._streams._value  # type: ignore[attr-defined, no-any-return]


class SlowReaderTests(LimitsCase):
    def export(self) -> Any:
        return self.other_operator.ExportAuditEntries(operator.ExportAuditEntriesRequest())

    async def test_it_is_not_sent_more_than_it_takes(self) -> None:
        """However long it takes: what there is for it stays in the store."""
        stream = self.export()
        await deferToThread(next, stream)
        seen = -1
        while seen != self.endless.pages:  # until nothing moves any more, which takes a few rounds of the windows
            seen = self.endless.pages
            await deferToThread(threading.Event().wait, 0.5)
        self.assertLess(seen * PAGE * 10_000, 64 * 1024 * 1024)
        ping = await deferToThread(self.other_stub.ListClients, admin.ListClientsRequest(), timeout=30)
        self.assertEqual(len(ping.clients), 2)
        stream.cancel()
        await self.when(lambda: self.free_streams == MAX_STREAMS)

    async def test_one_that_takes_nothing_is_sent_away(self) -> None:
        streams = [self.export() for _ in range(MAX_STREAMS)]
        for stream in streams:
            await deferToThread(next, stream)
        self.be_impatient()
        await self.when(lambda: self.free_streams == MAX_STREAMS)
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(lambda: Counter(type(entry) for entry in streams[0]))
        self.assertEqual(caught.exception.code().name, "CANCELLED")  # type: ignore[attr-defined]


class RequestTests(LimitsCase):
    def never(self) -> Iterator[bytes]:
        gate = threading.Event()
        self.addCleanup(gate.set)
        gate.wait(60)
        yield from ()

    async def test_a_caller_without_a_request_is_sent_away(self) -> None:
        calls = [
            self.other_channel.stream_unary("/fleetspeak.server.Admin/ListClients").future(self.never())
            for _ in range(THREADS)
        ]
        self.be_impatient()
        codes = await deferToThread(lambda: Counter(call.code().name for call in calls))
        self.assertEqual(codes, {"CANCELLED": THREADS})
        self.be_impatient(60)
        await deferToThread(self.other_stub.ListClients, admin.ListClientsRequest(), timeout=30)

    async def test_a_call_that_ends_without_a_request(self) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(
                self.other_channel.stream_unary("/fleetspeak.server.Admin/ListClients"), iter(()), timeout=30
            )
        self.assertEqual(caught.exception.code().name, "INVALID_ARGUMENT")  # type: ignore[attr-defined]

    async def test_many_at_once(self) -> None:
        """So many are carried out or wait; the others are told so, and come again."""
        calls = [self.other_stub.KeepAlive.future(common.EmptyMessage(), timeout=60) for _ in range(MAX_CALLS + 50)]
        await self.when(lambda: len(self.endless.waiting) == THREADS)
        await self.when(lambda: sum(call.done() for call in calls) == 50)
        while not all(call.done() for call in calls):
            waiting, self.endless.waiting = self.endless.waiting, []
            for call in waiting:
                call.callback(common.EmptyMessage())
            await deferToThread(threading.Event().wait, 0.01)
        codes = Counter(call.code().name for call in calls)
        self.assertEqual(codes, {"OK": MAX_CALLS, "RESOURCE_EXHAUSTED": 50})

    async def test_deadlines_and_callers_that_go_away_cancel_the_work(self) -> None:
        hurried = self.other_stub.KeepAlive.future(common.EmptyMessage(), timeout=0.3)
        leaving = self.other_stub.KeepAlive.future(common.EmptyMessage())
        await self.when(lambda: len(self.endless.waiting) == 2)
        leaving.cancel()
        await self.when(lambda: self.endless.cancelled == 2)
        code = await deferToThread(hurried.code)
        self.assertEqual(code.name, "DEADLINE_EXCEEDED")

    async def test_so_many_connections(self) -> None:
        options = tuple(
            (name, 2 if name == "grpc.max_allowed_incoming_connections" else value) for name, value in module.OPTIONS
        )
        self.patch(module, "OPTIONS", options)
        server = AdminServer(self.services, "127.0.0.1", 0, reactor)
        server.start()
        self.addCleanup(server.stop)
        channels = [
            grpc.insecure_channel(server.address, options=(("grpc.use_local_subchannel_pool", 1),)) for _ in range(3)
        ]
        for channel in channels:
            self.addCleanup(deferToThread, channel.close)

        def ask(channel: grpc.Channel) -> str:
            try:
                stub: Any = rpc.admin.AdminStub(channel)
                stub.KeepAlive(common.EmptyMessage(), timeout=30)
            except grpc.RpcError as error:
                return str(error.code().name)  # type: ignore[attr-defined]
            return "OK"

        self.assertEqual([await deferToThread(ask, channel) for channel in channels], ["OK", "OK", "UNAVAILABLE"])


class FakeContext:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


class PatienceTests(SynchronousTestCase):
    def test_only_who_waits_for_too_long(self) -> None:
        clock = Clock()
        patience = Patience(60, clock)
        patience.start()
        slow, quick = FakeContext(), FakeContext()
        with patience.waiting(slow):  # type: ignore[arg-type]
            clock.pump([6] * 5)
            for _ in range(20):
                with patience.waiting(quick):  # type: ignore[arg-type]
                    clock.advance(6)
                    if slow.cancelled:
                        break
        self.assertEqual((slow.cancelled, quick.cancelled), (1, 0))
        self.assertEqual(clock.seconds(), 60)
        clock.pump([6] * 20)
        patience.stop()
        self.assertEqual((slow.cancelled, clock.getDelayedCalls()), (1, []))
