from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fleetspeak.client.comms.handshake import HANDSHAKE_TIMEOUT, HandshakenEndpoint, HandshakeTimeout


class Inner(Protocol):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.events.append(data.decode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.events.append("lost")


@implementer(IStreamClientEndpoint)
class FakeTls:
    """TCP and TLS, of which the test says how far they have come."""

    def __init__(self) -> None:
        self.transport = StringTransportWithDisconnection()
        self.connected: Deferred[Any] = Deferred()
        self.protocol: Any = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        self.protocol = protocolFactory.buildProtocol(None)
        return self.connected

    def tcp_is_there(self) -> None:
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)
        self.connected.callback(self.protocol)


class HandshakenEndpointTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.tls, self.inner = Clock(), FakeTls(), Inner()
        self.connection = HandshakenEndpoint(self.tls, self.clock).connect(Factory.forProtocol(lambda: self.inner))

    def test_the_protocol_begins_when_the_handshake_is_complete(self) -> None:
        self.tls.tcp_is_there()
        self.assertNoResult(self.connection)
        self.assertEqual(self.inner.events, [])
        self.tls.protocol.handshakeCompleted()
        self.assertIs(self.successResultOf(self.connection), self.inner)
        self.assertIs(self.inner.transport, self.tls.transport)
        self.tls.protocol.dataReceived(b"data")
        self.tls.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.inner.events, ["made", "data", "lost"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_connection_is_an_error_at_once(self) -> None:
        self.tls.connected.errback(ConnectionRefusedError())
        self.failureResultOf(self.connection, ConnectionRefusedError)

    def test_a_failed_handshake_says_why(self) -> None:
        self.tls.tcp_is_there()
        self.tls.protocol.connectionLost(Failure(ZeroDivisionError("certificate revoked")))
        self.failureResultOf(self.connection, ZeroDivisionError)
        self.assertEqual(self.inner.events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_server_that_never_completes_it_is_given_up(self) -> None:
        """client-https 2: 10 s."""
        self.tls.tcp_is_there()
        self.clock.advance(HANDSHAKE_TIMEOUT)
        self.failureResultOf(self.connection, HandshakeTimeout)
        self.assertFalse(self.tls.transport.connected)

    def test_cancelling_closes_what_is_half_open(self) -> None:
        self.tls.tcp_is_there()
        self.connection.cancel()
        self.failureResultOf(self.connection, CancelledError)
        self.assertFalse(self.tls.transport.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])
