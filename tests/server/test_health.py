"""The health endpoint (server-core.md section 10)."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fleetspeak.errors import ConfigError
from fleetspeak.server.health import HealthEndpoint


class HealthTests(SynchronousTestCase):
    def ask(self, *requests: bytes) -> bytes:
        memory = MemoryReactorClock()
        endpoint = HealthEndpoint("127.0.0.1", 8080, memory)
        endpoint.start()
        (port, factory, _, interface) = memory.tcpServers[0]
        self.assertEqual((port, interface), (8080, "127.0.0.1"))
        factory.doStart()
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        for request in requests:
            protocol.dataReceived(request)
        return transport.value()

    def test_every_path_and_method_is_answered(self) -> None:
        for request in (b"GET / HTTP/1.1", b"HEAD /healthz HTTP/1.1", b"BREW /pot?x=1 HTTP/1.1"):
            answer = self.ask(request + b"\r\nHost: x\r\n\r\n")
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)
            self.assertTrue(answer.endswith(b"\r\n\r\n"), answer)
            self.assertIn(b"Content-Length: 0", answer)

    def test_a_body_is_read_and_dropped(self) -> None:
        answer = self.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", b"x" * 200_000)
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)


class ListeningTests(TestCase):
    async def test_an_address_in_use_is_one_clear_error(self) -> None:
        taken = reactor.listenTCP(0, Factory(), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(taken.stopListening)
        port = taken.getHost().port
        with self.assertRaisesRegex(ConfigError, f"failed to initialize health check service.*:{port}: .*in use"):
            HealthEndpoint("127.0.0.1", port, reactor).start()

    async def test_it_can_be_stopped(self) -> None:
        endpoint = HealthEndpoint("127.0.0.1", 0, reactor)
        endpoint.start()
        await endpoint.stop()
        await endpoint.stop()
