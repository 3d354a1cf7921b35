"""The dialer is a plug-in point: whatever carries bytes both ways can lead to the server."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from fleetspeak.client.comms import http
from fleetspeak.client.comms.dialing import dialer_named, route
from fleetspeak.client.comms.endpoints import DIAL_TIMEOUT, DialTimeout, Endpoints
from fleetspeak.client.comms.polling import PollingCommunicator
from fleetspeak.client.comms.streaming import StreamingCommunicator
from fleetspeak.config.client import ClientSettings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IDialer
from fleetspeak.security.certificates import key_to_pem, to_pem
from fleetspeak.security.tls import ClientTlsPolicy, server_options
from fleetspeak.testing.clientside import FakeLink, client_settings
from tests.client.comms.test_endpoints import FakeTls
from tests.client.comms.test_loopback import LoopbackTestCase, _message


@implementer(IDialer)
class UnixDialer:
    """Leads to a UNIX socket, whatever the server is called."""

    name = "unix"
    help = "For tests."

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, int]] = []

    def endpoint(self, host: str, port: int, settings: ClientSettings, reactor: Any) -> IStreamClientEndpoint:
        self.asked.append((host, port))
        return UNIXClientEndpoint(reactor, str(self.path))


class PluggedInTests(LoopbackTestCase):
    kind = StreamingCommunicator

    async def test_both_communicators_through_a_unix_socket(self) -> None:
        """TLS and its verification stay: the name is that of the server, not of the way to it."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        dialer = UnixDialer(Path(folder.name) / "socket")
        verifyObject(IDialer, dialer)
        self.patch(http, "dialer_named", {"unix": dialer}.__getitem__)
        tls = server_options(to_pem(self.listening.certificate), key_to_pem(self.listening._key))
        port = reactor.listenUNIX(str(dialer.path), TLSMemoryBIOFactory(tls, False, self.server))  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        for type(self).kind in (PollingCommunicator, StreamingCommunicator):
            self.run_against(("localhost", 4443), dialer="unix")
            acked: Deferred[None] = Deferred()
            self.link.outbox.submit(_message(), lambda acked=acked: acked.callback(None))  # type: ignore[misc]
            await acked
            await self.communicators.pop().stop()
        self.assertEqual(set(dialer.asked), {("localhost", 4443)})
        self.assertEqual(self.server.requests[0].client_id, self.link.identity.client_id)


class DialerTests(SynchronousTestCase):
    def test_the_built_in_ones_are_plug_ins(self) -> None:
        self.assertEqual([dialer_named(name).name for name in ("", "proxy", "direct")], ["proxy", "proxy", "direct"])
        for name in ("proxy", "direct"):
            verifyObject(IDialer, dialer_named(name))

    def test_the_configured_proxy_comes_before_that_of_the_environment(self) -> None:
        environment = {"HTTPS_PROXY": "http://environment:1"}
        for proxy, expected in (("http://configured:2", "http://configured:2"), ("", "http://environment:1")):
            settings = client_settings(proxy=proxy)
            self.assertEqual(str(route(settings, "fleet.example", 443, environment)), expected)
        self.assertEqual(str(route(client_settings(proxy="http://p:2"), "127.0.0.1", 1, {})), "http://p:2")

    def test_a_broken_proxy_of_the_environment_is_an_error(self) -> None:
        error = self.assertRaises(ConfigError, route, client_settings(), "fleet.example", 1, {"HTTPS_PROXY": "ftp://x"})
        self.assertIn("HTTPS_PROXY in the environment", str(error))

    def test_the_direct_one_passes_the_proxy_by(self) -> None:
        settings = client_settings(proxy="http://proxy:1")
        endpoint = dialer_named("direct").endpoint("h", 1, settings, MemoryReactorClock())
        self.assertEqual(type(endpoint).__name__, "KeptAliveEndpoint")

    def test_one_that_never_ends_is_given_up(self) -> None:
        clock, link = Clock(), FakeLink()
        policy = ClientTlsPolicy((), link.identity.key, link.identity.certificate)

        @implementer(IDialer)
        class Hanging:
            name = "hanging"
            help = ""

            def endpoint(self, host: str, port: int, settings: ClientSettings, reactor: Any) -> IStreamClientEndpoint:
                return FakeTls()

        endpoint = Endpoints(client_settings(), clock, policy, Hanging()).to("h", 1)
        connection = endpoint.connect(Factory.forProtocol(Protocol))
        clock.advance(DIAL_TIMEOUT)
        self.assertIn('"hanging"', self.failureResultOf(connection, DialTimeout).getErrorMessage())
        self.assertEqual(clock.getDelayedCalls(), [])
