"""Connections to servers: TCP that notices a dead path, and TLS on it that is complete in time or not at all."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from fleetspeak.security.tls import ClientTlsPolicy

CONNECT_TIMEOUT = 30.0
"""Seconds for TCP; upstream's."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from there until the TLS handshake is complete; upstream's."""

KEEP_ALIVE = 30
"""Seconds of silence until the kernel probes a connection, and between its probes; upstream's."""

_PROBES = 4
"""Unanswered probes after which a connection is dead; with `KEEP_ALIVE` that is noticed within about 2.5 minutes."""


class HandshakeTimeout(Exception):
    """The server accepted a connection and then did not complete the TLS handshake in time."""


@implementer(IAgentEndpointFactory)
class Endpoints:
    """Where connections come from, for one identity."""

    def __init__(self, reactor: Any, policy: ClientTlsPolicy) -> None:
        self._reactor = reactor
        self._policy = policy

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802
        return self.to(uri.host.decode("ascii").strip("[]"), uri.port)

    def to(self, host: str, port: int) -> IStreamClientEndpoint:
        """The endpoint of one server."""
        creator = self._policy.creatorForNetloc(host.encode("ascii"), port)
        tcp = KeptAliveEndpoint(HostnameEndpoint(self._reactor, host, port, CONNECT_TIMEOUT))
        return HandshakenEndpoint(wrapClientTLS(creator, tcp), self._reactor)


@implementer(IStreamClientEndpoint)
class KeptAliveEndpoint:
    """A TCP endpoint whose connections are probed by the kernel, so that a silently dead path is found."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        return self._endpoint.connect(protocolFactory).addCallback(_keep_alive)


def _keep_alive(protocol: Any) -> Any:
    tcp = protocol.transport
    if ITCPTransport.providedBy(tcp):
        tcp.setTcpNoDelay(True)
        tcp.setTcpKeepAlive(True)
        for option, value in (("TCP_KEEPIDLE", KEEP_ALIVE), ("TCP_KEEPINTVL", KEEP_ALIVE), ("TCP_KEEPCNT", _PROBES)):
            if hasattr(socket, option) and hasattr(tcp, "getHandle"):
                tcp.getHandle().setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return protocol


@implementer(IStreamClientEndpoint)
class HandshakenEndpoint:
    """A TLS endpoint that gives a connection when its handshake is complete, or says why it was not."""

    def __init__(self, endpoint: IStreamClientEndpoint, clock: IReactorTime) -> None:
        self._endpoint = endpoint
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        connected: Deferred[Any] = self._endpoint.connect(_HandshakeFactory(factory))
        handshake = await connected
        try:
            return await handshake.completed.addTimeout(HANDSHAKE_TIMEOUT, self._clock, _timed_out)
        except BaseException:
            handshake.give_up()
            raise


def _timed_out(result: object, seconds: float) -> None:
    raise HandshakeTimeout(f"the server did not complete the TLS handshake within {seconds:.0f} s")


class _HandshakeFactory(Factory):
    """Puts a `_Handshake` before each protocol of another factory."""

    noisy = False

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory

    def buildProtocol(self, addr: IAddress | None) -> _Handshake:  # noqa: N802
        return _Handshake(self._factory.buildProtocol(addr))  # type: ignore[arg-type]  # the interface is too strict


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Holds a protocol back until the handshake is complete; then it has the transport to itself."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._is_complete = False
        self.completed: Deferred[Any] = Deferred()
        """Fires with the protocol; fails with the reason why the connection was lost before that."""

    def handshakeCompleted(self) -> None:  # noqa: N802
        self._is_complete = True
        self._inner.makeConnection(self.transport)
        if not self.completed.called:
            self.completed.callback(self._inner)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self._is_complete:
            self._inner.connectionLost(reason)
        elif not self.completed.called:
            self.completed.errback(reason)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]
