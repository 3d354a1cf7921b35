"""The safety net: messages whose notification got lost."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId
from fleetspeak.records import ClientData
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.notify import sweep
from fleetspeak.server.notify.sweep import StreamSweep
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.storecontract.base import C1, C2, to_client


class SweepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(now_ns=lambda: int((100_000 + self.clock.seconds()) * 1e9))
        self.successResultOf(self.store.open())
        for client_id in (C1, C2):
            self.successResultOf(self.store.add_client(client_id, ClientData(b"key")))
        self.woken: list[ClientId] = []
        self.dispatcher = Dispatcher()
        for client_id in (C1, C2):
            self.dispatcher.register(client_id, lambda one=client_id: self.woken.append(one))  # type: ignore[misc]
        self.sweep = StreamSweep(self.store, self.dispatcher, self.clock, uniform=lambda: 0.5)
        self.sweep.start()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.sweep.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stream_with_something_due_is_woken(self) -> None:
        self.clock.advance(60)
        self.assertEqual(self.woken, [])
        self.successResultOf(self.store.store_messages([to_client(1, C2)]))
        self.clock.advance(59)
        self.assertEqual(self.woken, [])
        self.clock.advance(1)
        self.assertEqual(self.woken, [C2])
        self.clock.advance(60)
        self.assertEqual(self.woken, [C2, C2], "as long as nobody takes it")

    def test_many_streams_are_asked_for_in_pages(self) -> None:
        self.patch(sweep, "PAGE", 1)
        self.successResultOf(self.store.store_messages([to_client(1, C1), to_client(2, C2)]))
        self.clock.advance(60)
        self.assertEqual(self.woken, [C1, C2])

    def test_a_store_that_fails_is_one_line_and_asked_again(self) -> None:
        ask = self.store.clients_with_due_messages
        self.store.clients_with_due_messages = lambda ids: fail(StoreError("gone"))  # type: ignore[method-assign]
        self.successResultOf(self.store.store_messages([to_client(1, C1)]))
        with capturedLogs() as lines:
            self.clock.advance(60)
        self.assertEqual([str(line["error"]) for line in lines], ["gone"])
        self.store.clients_with_due_messages = ask  # type: ignore[method-assign]
        self.clock.advance(60)
        self.assertEqual(self.woken, [C1])

    def test_stopping_while_the_store_is_asked(self) -> None:
        self.store.clients_with_due_messages = lambda ids: Deferred()  # type: ignore[method-assign]
        self.clock.advance(60)
        self.assertEqual(self.clock.getDelayedCalls(), [])
