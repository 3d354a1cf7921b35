"""client-https 2: real clients through real proxies."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms.http import reason_of
from fleetspeak.client.comms.polling import PollingCommunicator
from fleetspeak.client.comms.streaming import StreamingCommunicator
from fleetspeak.client.comms.tunnel import TUNNEL_TIMEOUT, TunnelEndpoint
from fleetspeak.core.proxies import parse_proxy
from fleetspeak.errors import ProxyRefused
from fleetspeak.plugins import dialers
from tests.client.comms.proxies import Socks5Server, Tinyproxy
from tests.client.comms.test_endpoints import FakeTls, Inner
from tests.client.comms.test_loopback import LoopbackTestCase, _message


class ProxiedTestCase(LoopbackTestCase):
    kind = StreamingCommunicator

    def setUp(self) -> None:
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.warnings: list[str] = []
        globalLogPublisher.addObserver(self._note)
        self.addCleanup(globalLogPublisher.removeObserver, self._note)
        self.warned: Deferred[str] = Deferred()

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.warn and "reason" in event:
            self.warnings.append(event["reason"])
            if not self.warned.called:
                self.warned.callback(event["reason"])

    def tinyproxy(self, *lines: str) -> Tinyproxy:
        proxy = Tinyproxy(self.folder, *lines)
        self.addCleanup(proxy.stop)
        return proxy

    async def exchange(self) -> None:
        """A message goes through, and its ack comes back."""
        acked: Deferred[None] = Deferred()
        self.link.outbox.submit(_message(), lambda: acked.callback(None))
        await acked

    async def refusal(self, proxy: str, server: tuple[str, int] | None = None) -> str:
        """Why there is no contact through this proxy."""
        self.run_against(server or self.listening.listen(self.server), proxy=proxy)
        return await self.warned


class HttpProxyTests(ProxiedTestCase):
    async def test_item_49_through_an_explicit_proxy_to_a_loopback_server(self) -> None:
        proxy = self.tinyproxy()
        host, port = self.listening.listen(self.server)
        for type(self).kind in (PollingCommunicator, StreamingCommunicator):
            self.run_against((host, port), proxy=f"http://127.0.0.1:{proxy.port}")
            await self.exchange()
            await self.communicators.pop().stop()
        self.assertGreaterEqual(len(proxy.connects), 2)
        self.assertIn(f"CONNECT 127.0.0.1:{port} ", proxy.connects[0])

    async def test_with_user_and_password(self) -> None:
        proxy = self.tinyproxy("BasicAuth user sesame")
        self.run_against(self.listening.listen(self.server), proxy=f"http://user:sesame@127.0.0.1:{proxy.port}")
        await self.exchange()

    async def test_with_a_wrong_password(self) -> None:
        proxy = self.tinyproxy("BasicAuth user sesame")
        reason = await self.refusal(f"http://user:wrong!@127.0.0.1:{proxy.port}")
        self.assertIn(f"proxy http://127.0.0.1:{proxy.port}: it said 401", reason)
        self.assertIn("does not take the user and password", reason)
        self.assertNotIn("wrong!", reason)
        self.assertEqual(self.server.connections, 0)

    async def test_without_a_password_that_is_wanted(self) -> None:
        proxy = self.tinyproxy("BasicAuth user sesame")
        reason = await self.refusal(f"http://127.0.0.1:{proxy.port}")
        self.assertIn("it said 407 Proxy Authentication Required; give it user and password", reason)

    async def test_a_destination_that_its_rules_forbid(self) -> None:
        proxy = self.tinyproxy("ConnectPort 443")
        reason = await self.refusal(f"http://127.0.0.1:{proxy.port}")
        self.assertIn("it said 403", reason)
        self.assertIn("its rules forbid this destination", reason)

    async def test_a_server_that_it_cannot_reach(self) -> None:
        proxy = self.tinyproxy()
        reason = await self.refusal(f"http://127.0.0.1:{proxy.port}", self.listening.dead_end())
        self.assertIn("it cannot reach the server", reason)

    async def test_a_proxy_that_is_not_there(self) -> None:
        port = self.listening.dead_end()[1]
        reason = await self.refusal(f"http://user:sesame@127.0.0.1:{port}")
        self.assertIn(f"proxy http://127.0.0.1:{port} cannot be reached: Connection was refused", reason)

    async def test_a_proxy_that_closes_without_a_word(self) -> None:
        _, port = self.listening.listen_plain(Factory.forProtocol(_Closing))
        self.assertIn("closed the connection without making one", await self.refusal(f"http://127.0.0.1:{port}"))

    async def test_through_tls_to_the_proxy(self) -> None:
        """Its certificate is of our authority here; the client's own is not shown to it."""
        forwarder = _Forwarder()
        _, port = self.listening.listen(forwarder)
        self.run_against(self.listening.listen(self.server), proxy=f"https://127.0.0.1:{port}")
        await self.exchange()
        self.assertEqual(forwarder.shown, [None])
        self.assertEqual(self.server.requests[0].client_id, self.link.identity.client_id)
        await self.communicators.pop().stop()
        await forwarder.gone

    async def test_a_proxy_with_a_certificate_for_another_name(self) -> None:
        _, port = self.listening.listen(_Forwarder())
        reason = await self.refusal(f"https://127.1:{port}")
        self.assertIn("the proxy's certificate is not for 127.1", reason)


class Socks5Tests(ProxiedTestCase):
    def socks(self, users: dict[str, str] | None = None) -> tuple[Socks5Server, int]:
        server = Socks5Server(reactor, users)
        return server, self.listening.listen_plain(server)[1]

    async def test_it_resolves_the_name(self) -> None:
        socks, port = self.socks()
        socks.resolve = {"fleet.example": "127.0.0.1"}.__getitem__
        target = self.listening.listen(self.server)[1]
        self.run_against(("fleet.example", target), proxy=f"socks5://127.0.0.1:{port}", server_name="localhost")
        await self.exchange()
        self.assertEqual(socks.asked, [("fleet.example", target)])

    async def test_with_user_and_password(self) -> None:
        _, port = self.socks({"user": "sesame"})
        self.run_against(self.listening.listen(self.server), proxy=f"socks5://user:sesame@127.0.0.1:{port}")
        await self.exchange()

    async def test_refusals(self) -> None:
        _, port = self.socks({"user": "sesame"})
        reason = await self.refusal(f"socks5://user:wrong!@127.0.0.1:{port}")
        self.assertIn(f"proxy socks5://127.0.0.1:{port}: it does not take the user and password", reason)
        self.assertNotIn("wrong!", reason)

    async def test_a_server_that_it_cannot_reach(self) -> None:
        _, port = self.socks()
        reason = await self.refusal(f"socks5://127.0.0.1:{port}", self.listening.dead_end())
        self.assertIn("it said 5: the server refused its connection", reason)


class EnvironmentTests(ProxiedTestCase):
    async def test_a_proxy_of_the_environment_is_used_but_not_for_loopback(self) -> None:
        socks = Socks5Server(reactor)
        socks.resolve = lambda host: "127.0.0.1"
        port = self.listening.listen_plain(socks)[1]
        environment = {"HTTPS_PROXY": f"socks5://127.0.0.1:{port}", "NO_PROXY": "other.example"}
        self.patch(dialers.proxy, "environment", environment)
        target = self.listening.listen(self.server)[1]
        self.run_against(("127.0.0.1", target))
        await self.exchange()
        await self.communicators.pop().stop()
        self.assertEqual(socks.asked, [])
        self.run_against(("fleet.example", target), server_name="localhost")
        await self.exchange()
        self.assertEqual(socks.asked, [("fleet.example", target)])


class TunnelEndpointTests(SynchronousTestCase):
    """What the proxy does, step by step."""

    def setUp(self) -> None:
        self.clock, self.tcp, self.inner = Clock(), FakeTls(), Inner()
        endpoint = TunnelEndpoint(self.tcp, parse_proxy("http://u:sesame@proxy:1"), "server", 443, self.clock)
        self.connection = endpoint.connect(Factory.forProtocol(lambda: self.inner))

    def test_the_protocol_begins_when_the_tunnel_is_there(self) -> None:
        self.tcp.tcp_is_there()
        self.assertTrue(self.tcp.transport.value().startswith(b"CONNECT server:443 HTTP/1.1\r\n"))
        self.tcp.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n")
        self.assertEqual(self.inner.events, [])
        self.tcp.protocol.dataReceived(b"\r\nearly")
        self.assertIs(self.successResultOf(self.connection), self.inner)
        self.tcp.protocol.dataReceived(b"data")
        self.tcp.transport.loseConnection()
        self.assertEqual(self.inner.events, ["made", "early", "data", "lost"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_proxy_that_never_answers_is_given_up(self) -> None:
        self.tcp.tcp_is_there()
        self.tcp.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n")
        self.clock.advance(TUNNEL_TIMEOUT)
        failure = self.failureResultOf(self.connection, ProxyRefused)
        self.assertIn("proxy http://proxy:1: it did not make the connection within 30 s", failure.getErrorMessage())
        self.assertFalse(self.tcp.transport.connected)
        self.assertEqual(self.inner.events, [])

    def test_cancelling_closes_what_is_half_open(self) -> None:
        self.tcp.tcp_is_there()
        self.connection.cancel()
        self.failureResultOf(self.connection)
        self.assertFalse(self.tcp.transport.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_after_a_refusal_nothing_more_is_read(self) -> None:
        self.tcp.tcp_is_there()
        self.tcp.protocol.dataReceived(b"HTTP/1.1 403 No\r\n\r\n")
        self.failureResultOf(self.connection, ProxyRefused)
        self.tcp.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n")
        self.assertEqual(self.inner.events, [])

    def test_what_cannot_be_asked_for_is_an_error_before_any_connection(self) -> None:
        endpoint = TunnelEndpoint(FakeTls(), parse_proxy(f"socks5://{'u' * 256}@proxy"), "server", 443, self.clock)
        failure = self.failureResultOf(endpoint.connect(Factory.forProtocol(Protocol)), ProxyRefused)
        self.assertIn("256 bytes, only 255", reason_of(failure.value))


class _Closing(Protocol):
    def dataReceived(self, data: bytes) -> None:
        cast(Any, self.transport).loseConnection()


class _Forwarder(Factory):
    """An HTTP proxy that makes every tunnel; notes the certificates it was shown."""

    noisy = False

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.gone: Deferred[None] = Deferred()

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Forwarding(self)


class _Forwarding(Protocol):
    def __init__(self, factory: _Forwarder) -> None:
        self._factory = factory
        self._peer: Deferred[Any] | None = None
        self._buffer = b""

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if self._peer is None and b"\r\n\r\n" in self._buffer:
            self._factory.shown.append(cast(Any, self.transport).getPeerCertificate())
            port = int(self._buffer.split(b" ")[1].rpartition(b":")[2])
            self._buffer = b""
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
            self._peer = endpoint.connect(Factory.forProtocol(lambda: _Back(self))).addCallback(self._begin)
        elif self._peer is not None:
            self._peer.addCallback(self._send)

    def _begin(self, peer: Any) -> Any:
        cast(Any, self.transport).write(b"HTTP/1.1 200 OK\r\n\r\n")
        return peer

    def _send(self, peer: Any) -> Any:
        data, self._buffer = self._buffer, b""
        peer.transport.write(data)
        return peer

    def connectionLost(self, reason: Any = None) -> None:
        if self._peer is not None:
            self._peer.addCallback(lambda peer: peer.transport.loseConnection())
        if not self._factory.gone.called:
            self._factory.gone.callback(None)


class _Back(Protocol):
    def __init__(self, front: _Forwarding) -> None:
        self._front = front

    def dataReceived(self, data: bytes) -> None:
        cast(Any, self._front.transport).write(data)

    def connectionLost(self, reason: Any = None) -> None:
        cast(Any, self._front.transport).loseConnection()
