"""Connections through proxies: TCP to the proxy, its consent, and then as if the server were there."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.core.proxies import Proxy
from fleetspeak.errors import FleetspeakError, ProxyRefused
from fleetspeak.wire.httpconnect import HttpConnect
from fleetspeak.wire.socks5 import Socks5

TUNNEL_TIMEOUT = 30.0
"""Seconds that a proxy has to make a connection, counted from when we reached it: as for TCP without one."""


class Negotiation(Protocol):
    """What is said with a proxy until the tunnel is there: `HttpConnect` or `Socks5`."""

    done: bool
    rest: bytes

    def begin(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...


def negotiation(proxy: Proxy, host: str, port: int) -> Negotiation:
    """How to ask this proxy for a tunnel.  Raises ValueError for what cannot be asked for."""
    kind = Socks5 if proxy.scheme == "socks5" else HttpConnect
    return kind(host, port, proxy.username, proxy.password)


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Gives a connection when the proxy has made it, or says why it did not."""

    def __init__(
        self, to_proxy: IStreamClientEndpoint, proxy: Proxy, host: str, port: int, clock: IReactorTime
    ) -> None:
        self._to_proxy = to_proxy
        self._proxy = proxy
        self._host = host
        self._port = port
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        try:
            said = negotiation(self._proxy, self._host, self._port)
        except ValueError as error:
            raise ProxyRefused(f"proxy {self._proxy}: {error}") from None
        connecting: Deferred[Any] = self._to_proxy.connect(_TunnelFactory(said, factory))
        try:
            tunnel = await connecting
        except CancelledError:
            raise
        except Exception as error:
            raise ProxyRefused(f"proxy {self._proxy} cannot be reached: {_reason_of(error)}") from error
        try:
            return await tunnel.established.addTimeout(TUNNEL_TIMEOUT, self._clock, _timed_out)
        except FleetspeakError as error:
            tunnel.give_up()
            raise ProxyRefused(f"proxy {self._proxy}: {error}") from None
        except BaseException:
            tunnel.give_up()
            raise


def _reason_of(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _timed_out(result: object, seconds: float) -> None:
    raise ProxyRefused(f"it did not make the connection within {seconds:.0f} s; check the way from there, and its log")


class _TunnelFactory(Factory):
    """Puts a `_Tunnel` before the protocol of another factory."""

    noisy = False

    def __init__(self, said: Negotiation, factory: IProtocolFactory) -> None:
        self._said = said
        self._factory = factory

    def buildProtocol(self, addr: IAddress | None) -> _Tunnel:  # noqa: N802
        return _Tunnel(self._said, self._factory.buildProtocol(addr))  # type: ignore[arg-type]  # the interface is too strict


class _Tunnel(TwistedProtocol):
    """Speaks with the proxy; then what is inside has the transport to itself."""

    def __init__(self, said: Negotiation, inner: Any) -> None:
        self._said = said
        self._inner = inner
        self._is_open = False
        self.established: Deferred[Any] = Deferred()
        """Fires with what is inside; fails with the reason why there is no tunnel."""

    def connectionMade(self) -> None:  # noqa: N802
        assert self.transport is not None
        self.transport.write(self._said.begin())

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._is_open:
            self._inner.dataReceived(data)
        elif not self.established.called:
            self._negotiate(data)

    def _negotiate(self, data: bytes) -> None:
        assert self.transport is not None
        try:
            answer = self._said.feed(data)
        except FleetspeakError as error:
            self.established.errback(error)
            return
        if answer:
            self.transport.write(answer)
        if self._said.done:
            self._is_open = True
            self._inner.makeConnection(self.transport)
            if self._said.rest:
                self._inner.dataReceived(self._said.rest)
            self.established.callback(self._inner)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self._is_open:
            self._inner.connectionLost(reason)
        elif not self.established.called:
            how = "" if reason.check(ConnectionDone) else f": {reason.getErrorMessage()}"  # type: ignore[no-untyped-call]
            self.established.errback(
                ProxyRefused(f"it closed the connection without making one{how}; its log may say why")
            )

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]
