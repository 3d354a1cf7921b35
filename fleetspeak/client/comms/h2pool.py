"""Which connection that speaks HTTP/2 carries a request: one for each server, shared by all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from fleetspeak.client.comms.endpoints import Endpoints
from fleetspeak.client.comms.h2connection import H2Connection
from fleetspeak.client.comms.servers import Server

AGAIN_AFTER = 3600.0
"""Seconds until a server that speaks HTTP/1.1 only is offered HTTP/2 again; it may have been replaced."""


class Http2:
    """Offers HTTP/2 to servers, and remembers which of them did not take it."""

    _log = Logger()

    def __init__(self, endpoints: Endpoints, clock: IReactorTime) -> None:
        """@param endpoints: whose connections offer it."""
        self._endpoints = endpoints
        self._clock = clock
        self._connections: dict[Server, H2Connection] = {}
        self._open: set[H2Connection] = set()
        self._dials: dict[Server, _Dial] = {}
        self._http1_until: dict[Server, float] = {}

    def connection(self, server: Server) -> Deferred[H2Connection | None]:
        """A connection on which a request may be begun at once; None: this server speaks HTTP/1.1.  Cancellable."""
        known = self._connections.get(server)
        if known is not None and known.is_usable:
            return succeed(known)
        if self._http1_until.get(server, 0.0) > self._clock.seconds():
            return succeed(None)
        dial = self._dials.get(server)
        if dial is not None:
            return dial.wait()
        return self._dial(server)

    async def close(self) -> None:
        """Close all connections."""
        for dial in list(self._dials.values()):
            dial.cancel()
        for connection in list(self._open):
            connection.close()
        while self._open:
            closed: Deferred[None] = Deferred()
            next(iter(self._open)).lost.addCallback(closed.callback)
            await closed

    def _dial(self, server: Server) -> Deferred[H2Connection | None]:
        def forget() -> None:
            if self._dials.get(server) is dial:
                del self._dials[server]

        dial = self._dials[server] = _Dial(forget)
        waiting = dial.wait()
        dial.connecting = self._connect(server).addCallback(self._connected, server)
        dial.connecting.addBoth(dial.over)
        return waiting

    def _connect(self, server: Server) -> Deferred[Any]:
        factory = Factory.forProtocol(lambda: H2Connection(self._clock))
        factory.noisy = False
        try:
            connecting: Deferred[Any] = self._endpoints.to(server.host, server.port).connect(factory)
        except Exception:
            return fail()
        return connecting

    def _connected(self, connection: H2Connection, server: Server) -> H2Connection | None:
        self._open.add(connection)
        connection.lost.addCallback(lambda _: self._lost(connection, server))
        version = "HTTP/2" if connection.is_http2 else "HTTP/1.1"
        self._log.debug("{server} speaks {version}", server=server, version=version)
        if not connection.is_http2:
            self._http1_until[server] = self._clock.seconds() + AGAIN_AFTER
            return None
        self._connections[server] = connection
        return connection

    def _lost(self, connection: H2Connection, server: Server) -> None:
        self._open.discard(connection)
        if connection.is_broken:
            self._log.warn("{server} offers HTTP/2 and does not speak it; HTTP/1.1 is used", server=server)
            self._http1_until[server] = self._clock.seconds() + AGAIN_AFTER


class _Dial:
    """A connection that is being made, and who waits for it."""

    def __init__(self, forget: Callable[[], None]) -> None:
        """@param forget: called when nobody else shall join those that wait."""
        self._forget = forget
        self._waiting: list[Deferred[H2Connection | None]] = []
        self.connecting: Deferred[Any] | None = None

    def wait(self) -> Deferred[H2Connection | None]:
        """Fires with the outcome."""
        waiter: Deferred[H2Connection | None] = Deferred(self._left)
        self._waiting.append(waiter)
        return waiter

    def cancel(self) -> None:
        """Nobody wants it."""
        for waiter in list(self._waiting):
            waiter.cancel()

    def over(self, outcome: Any) -> None:
        """It was made, or not."""
        self._forget()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(outcome)

    def _left(self, waiter: Deferred[H2Connection | None]) -> None:
        # Whoever gave up, because it took too long, must not find it again when he comes back.
        self._forget()
        self._waiting.remove(waiter)
        if not self._waiting and self.connecting is not None:
            self.connecting.cancel()
