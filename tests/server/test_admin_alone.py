"""A server for the admin API alone does not process messages that are for services of other servers."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyProto
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.server import ServerSettings
from fleetspeak.ids import MessageId
from fleetspeak.pb import common, services
from fleetspeak.server.assembly import Server
from fleetspeak.server.services.noop import NoopFactory
from fleetspeak.store.memory import MemoryStore
from tests.server.services.doubles import message

HOUR = 3600 * 10**9


class AdminAloneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(now_ns=self.now, uniform=lambda: 0.0)
        self.successResultOf(self.store.open())
        waiting = message("elsewhere", source=b"")
        self.successResultOf(self.store.store_messages([waiting]))
        self.clock.advance(3600)

    def now(self) -> int:
        return 1000 * HOUR + int(self.clock.seconds() * 1e9)

    def serve(self, *names: str) -> Server:
        """A server with these services; its parts that process messages are started."""
        settings = ServerSettings(services=[services.ServiceConfig(name=name, factory="NOOP") for name in names])
        server = Server(settings, [NoopFactory()], self.clock, store=self.store, now_ns=self.now)
        for step in server.steps():
            if step.name == "services":
                self.successResultOf(Deferred.fromCoroutine(step.start()))  # type: ignore[arg-type]
            elif step.name == "backlog":
                step.start()
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(server.backlog.stop())))
        return server

    def result(self, number: int = 0) -> common.MessageResult | None:
        message_id = MessageId(number.to_bytes(32, "big"))
        return self.successResultOf(self.store.message_results([message_id])).get(message_id)

    def test_without_services_it_leaves_them_to_others(self) -> None:
        server = self.serve()
        self.clock.advance(60)
        self.assertIsNone(self.result())
        inserted = message("elsewhere", number=1, source=b"")
        inserted.data.CopyFrom(AnyProto(type_url="t", value=b"v"))
        self.successResultOf(Deferred.fromCoroutine(server.inserter.insert(inserted)))
        self.assertIsNone(self.result(1))
        [kept] = self.successResultOf(self.store.get_messages([MessageId(inserted.message_id)], want_data=True))
        self.assertEqual(kept.data.value, b"v")

    def test_with_services_it_takes_part(self) -> None:
        """Like every server: what it does not know fails."""
        self.serve("elsewhere")
        result = self.result()
        assert result is not None
        self.assertFalse(result.failed)

    def test_a_service_that_it_does_not_have_then(self) -> None:
        self.serve("other")
        result = self.result()
        assert result is not None
        self.assertEqual(result.failed_reason, 'unknown service "elsewhere"')
