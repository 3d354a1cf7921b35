"""Upstream's way for servers to notify each other, the side that hears: ``POST /client/<client id>``."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import Resource
from twisted.web.server import Request as SiteRequest
from twisted.web.server import Site
from zope.interface import implementer

from fleetspeak.config.addresses import show
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IListener
from fleetspeak.server.notify.addresses import public_address
from fleetspeak.server.notify.local import LOG_INTERVAL
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.wire.notification import AUTHORIZATION, Refused, client_of, is_proven

IDLE_LIMIT = 60
"""Seconds until a silent connection is closed."""

MAX_CONNECTIONS = 1000
"""At a time; servers keep few each, so more is somebody else."""

UNPROVEN = Refused(401, "This server takes notifications only from servers that have its secret.")

Judge = Callable[[bytes, bytes, bytes | None], Refused | None]
"""Of method, path and proof: hears a good request; gives what is wrong with another one."""

log = Logger()


class _Notification(SiteRequest):
    """One request.  A body is dropped as it comes."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        pass

    def process(self) -> None:
        channel: Any = self.channel
        refused = channel.site.judge(
            self.method, self.uri.partition(b"?")[0], self.requestHeaders.getRawHeaders(AUTHORIZATION, [None])[0]
        )
        text = b""
        if refused is not None:
            text = refused.text.encode() + b"\n"
            self.setResponseCode(refused.status)
            self.setHeader(b"content-type", b"text/plain; charset=utf-8")  # type: ignore[no-untyped-call]
        self.setHeader(b"content-length", b"%d" % len(text))  # type: ignore[no-untyped-call]
        self.write(text)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]


class _Channel(HTTPChannel):
    """One connection, which its site knows of."""

    factory: _NotificationSite

    def connectionMade(self) -> None:  # noqa: N802
        super().connectionMade()  # type: ignore[no-untyped-call]
        self.factory.channels.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self.factory.channels.discard(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """Close it at once."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()


class _NotificationSite(Site):
    """Serves notifications on a bounded number of connections, without a line for each in the log."""

    noisy = False
    protocol: Any = _Channel

    def __init__(self, judge: Judge, reactor: Any) -> None:
        super().__init__(Resource(), requestFactory=_Notification, timeout=IDLE_LIMIT, reactor=reactor)  # type: ignore[no-untyped-call]
        self.judge = judge
        self.channels: set[_Channel] = set()

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        if len(self.channels) >= MAX_CONNECTIONS:
            return None
        return super().buildProtocol(addr)  # type: ignore[no-untyped-call]

    def close_connections(self) -> None:
        """End those that are kept open for the next request."""
        for channel in list(self.channels):
            channel.abort()

    def log(self, request: Request) -> None:
        """A notification is no news."""


@implementer(IListener)
class HttpListener:
    """Listens for notifications of our servers, and of upstream's."""

    def __init__(
        self,
        host: str,
        port: int,
        reactor: Any,
        *,
        public: str = "",
        database_host: str = "",
        secret: bytes | None = None,
        accept_unsigned: bool = False,
    ) -> None:
        """
        @param host: empty for all addresses.
        @param port: 0 lets the kernel pick one.
        @param public: ``host:port`` by which other servers reach it; empty: to be found out, with the help of
            `database_host`.
        @param secret: with one, only those who have it too are heard.
        @param accept_unsigned: except those that give no proof at all, as upstream's do.
        """
        self._host = host
        self._port = port
        self._reactor = reactor
        self._public = public
        self._database_host = database_host
        self._secret = secret
        self._accept_unsigned = accept_unsigned
        self._sparse = SparseLog(reactor, LOG_INTERVAL)
        self._hear: Callable[[ClientId], object] = lambda client_id: None
        self._listening: Any = None
        self._site = _NotificationSite(self._judge, reactor)
        self.address = public

    def start(self, hear: Callable[[ClientId], object], broadcasts_changed: Callable[[], object]) -> None:
        """Listen.  Raises ConfigError."""
        self._hear = hear
        self._listening = self._listen()
        at = self._listening.getHost()
        if not self._public:
            try:
                self.address = public_address(self._host, at.port, self._database_host)
            except ConfigError:
                self._listening.stopListening()
                raise
        log.info(
            "notifications are heard on {address}; other servers are told {public}",
            address=show(at.host, at.port),
            public=self.address,
        )

    async def stop(self) -> None:
        """Listen no more."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.stopListening()
            self._site.close_connections()

    def _listen(self) -> Any:
        failed: CannotListenError | None = None
        for interface in (
            [self._host] if self._host else ["::", ""]
        ):  # the first takes IPv4 as well, where there is IPv6
            try:
                return self._reactor.listenTCP(self._port, self._site, interface=interface)
            except CannotListenError as error:
                failed = failed or error
        assert failed is not None  # there is a first interface
        raise ConfigError(
            f"notification_listen_address: cannot listen on {self._host}:{self._port}: {failed.socketError}"
        ) from failed

    def _judge(self, method: bytes, path: bytes, proof: bytes | None) -> Refused | None:
        client_id = client_of(method, path)
        refused = client_id if isinstance(client_id, Refused) else self._unproven(client_id, proof)
        if refused is None:
            assert not isinstance(client_id, Refused)  # see above
            self._hear(client_id)
        elif self._sparse.due():
            log.warn(
                "a notification was refused: {text} ({held_back} more such lines were held back)",
                text=refused.text,
                held_back=self._sparse.take_held_back(),
            )
        return refused

    def _unproven(self, client_id: ClientId, proof: bytes | None) -> Refused | None:
        if self._secret is None or (proof is None and self._accept_unsigned):
            return None
        return None if is_proven(self._secret, client_id, proof) else UNPROVEN
