"""The listener that clients reach."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IStreamServerEndpoint,
)
from twisted.internet.tcp import makeBinding
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IAuthorizer
from fleetspeak.security.tls import server_options
from fleetspeak.server.contact.handler import ContactHandler
from fleetspeak.server.files import Files
from fleetspeak.server.https.context import Context, StreamTimes
from fleetspeak.server.https.files import FileServer
from fleetspeak.server.https.refusals import Refusals
from fleetspeak.server.https.running import Running
from fleetspeak.server.https.site import Site, identity_of
from fleetspeak.server.https.streamrequest import show_address
from fleetspeak.server.stats import NO_STATS, ServerStats

BACKLOG = 1024
"""Connections that wait to be accepted: a fleet comes back all at once."""

CLOSE_LIMIT = 15.0
"""Seconds from the beginning of a stop until connections that are still open are cut."""

_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),
)
"""On Linux connections inherit them.  A peer that vanished is noticed within two minutes."""

log = Logger()


class AdmittingTls(TLSMemoryBIOFactory):
    """TLS in front of a site, for the peers that may connect at all."""

    # Twisted's default gathers small writes until the reactor's next turn; ours are whole records already.
    protocol = TLSMemoryBIOProtocol

    def __init__(
        self,
        tls: IOpenSSLServerConnectionCreator,
        site: Site,
        clock: Any,
        authorizer: IAuthorizer,
        stats: ServerStats = NO_STATS,
    ) -> None:
        super().__init__(tls, isClient=False, wrappedFactory=site, clock=clock)
        self._authorizer = authorizer
        self._stats = stats

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        if addr is not None and not self._authorizer.allow_connection(show_address(addr)):
            self._stats.contact_refused("connection")
            return None  # Twisted then closes the connection, before a byte is written
        return super().buildProtocol(addr)


class HttpsFrontend:
    """Serves clients over mutual TLS."""

    def __init__(
        self,
        contacts: ContactHandler,
        authorizer: IAuthorizer,
        settings: ServerSettings,
        reactor: Any,
        *,
        files: Files | None = None,
        times: StreamTimes | None = None,
        uniform: Callable[[], float] = random.random,
        stats: ServerStats = NO_STATS,
    ) -> None:
        """
        @param settings: of which this takes the https address, certificate chain, key, whether there are streams,
            whether other processes may listen there too, and whether the authorizer is asked for files.
        @param files: what is served below ``/files/``; None: nothing is.
        @raise ConfigError: certificate or key cannot be used.
        """
        self._reactor = reactor
        self._address = settings.https_address or ("", 0)
        self._share_port = settings.share_port
        self._running = Running()
        refusals = Refusals(reactor, stats=stats)
        context = Context(contacts, reactor, refusals, self._running, times or StreamTimes(), uniform, stats)
        asked = authorizer if settings.file_authorization else None
        self._site = Site(
            context,
            streaming=settings.streaming,
            files=FileServer(files, self._running, reactor, asked, identity_of, stats) if files else None,
        )
        tls = server_options(settings.certificate_chain, settings.key)
        self._factory = AdmittingTls(tls, self._site, reactor, authorizer, stats)
        self._port: IListeningPort | None = None

    async def open(self) -> IAddress:
        """Listen.  Returns the address that is bound.  Raises ConfigError."""
        self._port = await self._listen()
        listening: socket.socket | None = getattr(self._port, "socket", None)
        if listening is not None:
            for level, option, value in _SOCKET_OPTIONS:
                listening.setsockopt(level, option, value)
        self._site.is_ready = True
        return self._port.getHost()

    async def drain_and_close(self) -> None:
        """Stop listening; let contacts finish and streams end, for at most `CLOSE_LIMIT` seconds."""
        if self._port is None:
            return
        port, self._port = self._port, None
        stopped = port.stopListening()
        if isinstance(stopped, Deferred):
            await stopped
        timer = self._reactor.callLater(CLOSE_LIMIT, self._cut)
        await self._site.drain()
        await self._running.when_idle()
        if timer.active():
            timer.cancel()

    def _cut(self) -> None:
        log.warn("cutting the connections that did not end in {seconds} seconds", seconds=CLOSE_LIMIT)
        self._site.abort()
        self._running.cancel()

    async def _listen(self) -> IListeningPort:
        host, port = self._address
        failed: CannotListenError | None = None
        for endpoint in self._endpoints(host, port):
            try:
                return await endpoint.listen(self._factory)
            except CannotListenError as error:
                failed = failed or error
        raise ConfigError(f"failed to listen on [{host}:{port}]: {failed}")

    def _endpoints(self, host: str, port: int) -> list[IStreamServerEndpoint]:
        """One for the address; for all addresses first the one of IPv6, which takes IPv4 as well."""
        four = TCP4ServerEndpoint(self._reactor, self._place(host, port), BACKLOG, host)  # type: ignore[no-untyped-call]
        host6 = host or "::"
        six = TCP6ServerEndpoint(self._reactor, self._place(host6, port), BACKLOG, host6)  # type: ignore[no-untyped-call]
        if not host:
            return [six, four]
        return [six if ":" in host else four]

    def _place(self, host: str, port: int) -> Any:
        """A port, or all that Twisted has to know to share it."""
        return makeBinding(host, port, reuseAddress=True, reusePort=True) if self._share_port else port
