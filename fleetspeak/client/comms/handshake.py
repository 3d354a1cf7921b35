"""TLS on a connection, complete in time or not at all."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from the connection until the TLS handshake is complete; upstream's."""


class HandshakeTimeout(Exception):
    """The server accepted a connection and then did not complete the TLS handshake in time."""


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
