"""The health endpoint (server-core.md section 10), and readiness."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fleetspeak.errors import ConfigError, StoreError
from fleetspeak.server.health import LEAST_AGE, MAX_CONNECTIONS, STORE_LIMIT, Readiness, health_endpoint
from fleetspeak.store.memory import MemoryStore


class SlowStore(MemoryStore):
    """A store whose reads and acknowledgements can hang or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.reads: Deferred[Any] | None = None
        self.writes: Deferred[Any] | None = None
        self.open()

    def client_data(self, client_ids: Any) -> Any:
        self.asked += 1
        return self.reads or super().client_data(client_ids)

    def acknowledge(self, acks: Any) -> Any:
        return self.writes or super().acknowledge(acks)


class ProbeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = MemoryReactorClock()
        self.store = SlowStore()
        self.readiness = Readiness(self.store, self.memory)
        endpoint = health_endpoint(("127.0.0.1", 8080), self.readiness, self.memory)
        endpoint.start()
        (port, self.factory, _, interface) = self.memory.tcpServers[0]
        self.assertEqual((port, interface), (8080, "127.0.0.1"))
        self.factory.doStart()

    def send(self, *requests: bytes) -> tuple[Any, StringTransport]:
        protocol = self.factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        for request in requests:
            protocol.dataReceived(request)
        return protocol, transport

    def ask(self, *requests: bytes) -> bytes:
        return self.send(*requests)[1].value()

    def ready(self) -> tuple[int, str]:
        answer = self.ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").decode()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split(" ")[1]), body.strip()


class HealthTests(ProbeCase):
    def test_section_10_every_path_and_method_answers_200_with_an_empty_body(self) -> None:
        for request in (b"GET /", b"HEAD /healthz", b"BREW /pot?x=1", b"GET /readyz/x"):
            answer = self.ask(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)
            self.assertTrue(answer.endswith(b"\r\n\r\n"), answer)
            self.assertIn(b"Content-Length: 0", answer)

    def test_section_10_as_long_as_the_process_lives_whatever_the_store_does(self) -> None:
        self.store.reads = Deferred()
        self.readiness.end()
        self.assertIn(b" 200 OK", self.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))

    def test_a_body_is_read_and_dropped(self) -> None:
        answer = self.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", b"x" * 200_000)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)

    def test_too_many_connections_are_closed_at_once_and_make_room_when_they_go(self) -> None:
        open_ones = [self.factory.buildProtocol(None) for _ in range(MAX_CONNECTIONS)]
        self.assertIsNone(self.factory.buildProtocol(None))
        open_ones[0].makeConnection(StringTransport())
        open_ones[0].connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(self.factory.buildProtocol(None))


class ReadinessTests(ProbeCase):
    def test_not_before_clients_are_let_in_and_not_while_they_finish(self) -> None:
        self.assertEqual(self.ready(), (503, "the server is starting"))
        self.readiness.begin()
        self.assertEqual(self.ready(), (200, "ready"))
        self.readiness.end()
        self.assertEqual(self.ready(), (503, "the server is stopping"))

    def test_a_store_that_is_slow_is_given_up(self) -> None:
        for which in ("reads", "writes"):
            with self.subTest(which):
                self.setUp()
                self.readiness.begin()
                setattr(self.store, which, Deferred())
                _, transport = self.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertEqual(transport.value(), b"")
                with capturedLogs() as logged:
                    self.memory.advance(STORE_LIMIT)
                self.assertIn(b" 503 ", transport.value())
                self.assertIn(b"the store does not answer\n", transport.value())
                self.assertEqual(len([one for one in logged if "log_format" in one]), 1)

    def test_a_store_that_fails_and_then_works_again(self) -> None:
        self.readiness.begin()
        self.store.reads = failed = Deferred()
        failed.errback(StoreError("gone"))
        self.assertEqual(self.ready(), (503, "the store does not answer"))
        self.store.reads = None
        self.memory.advance(LEAST_AGE)
        self.assertEqual(self.ready(), (200, "ready"))

    def test_a_flood_of_probes_asks_the_store_once(self) -> None:
        self.readiness.begin()
        self.store.reads = Deferred()
        waiting = [self.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")[1] for _ in range(20)]
        self.store.reads.callback({})
        for transport in waiting:
            self.assertIn(b" 200 OK", transport.value())
        self.assertEqual(self.ready(), (200, "ready"))
        self.assertEqual(self.store.asked, 1)

    def test_a_probe_that_goes_away_takes_nothing_from_the_others(self) -> None:
        self.readiness.begin()
        self.store.reads = Deferred()
        gone, _ = self.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        _, waiting = self.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        gone.connectionLost(Failure(ConnectionDone()))
        self.store.reads.callback({})
        self.assertIn(b" 200 OK", waiting.value())

    def test_a_stop_while_the_store_is_asked_counts(self) -> None:
        clock = Clock()
        self.store.reads = Deferred()
        readiness = Readiness(self.store, clock)
        readiness.begin()
        asked = Deferred.fromCoroutine(readiness.trouble())
        readiness.end()
        self.store.reads.callback({})
        self.assertEqual(self.successResultOf(asked), "the server is stopping")


class ListeningTests(TestCase):
    def endpoint(self, port: int) -> Any:
        return health_endpoint(("127.0.0.1", port), Readiness(MemoryStore(), reactor), reactor)  # type: ignore[arg-type]

    async def test_section_10_a_bind_failure_stops_the_start_with_one_clear_error(self) -> None:
        taken = reactor.listenTCP(0, Factory(), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(taken.stopListening)
        port = taken.getHost().port
        with self.assertRaisesRegex(ConfigError, f"failed to initialize health check service.*:{port}: .*in use"):
            self.endpoint(port).start()

    async def test_it_can_be_stopped(self) -> None:
        endpoint = self.endpoint(0)
        endpoint.start()
        await endpoint.stop()
        await endpoint.stop()
