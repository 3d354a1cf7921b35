"""HTTP for programs that look after this one: no bodies, few connections, no line in the log for each request."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Request as SiteRequest
from twisted.web.server import Site

from fleetspeak.config.addresses import show
from fleetspeak.errors import ConfigError

IDLE_LIMIT = 60
"""Seconds until a silent connection is closed, also one whose peer does not read."""

log = Logger()


class ProbeRequest(SiteRequest):
    """A request whose body is dropped."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        """Make no room for a body, whatever its size."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        """Drop it."""

    def answer(self, code: int, body: bytes = b"", content_type: bytes = b"text/plain; charset=utf-8") -> None:
        """Answer, and be done; without effect if the peer is gone."""
        if self.finished or self._disconnected:
            return
        self.setResponseCode(code)
        if body:
            self.setHeader(b"content-type", content_type)  # type: ignore[no-untyped-call]
        self.setHeader(b"content-length", b"%d" % len(body))  # type: ignore[no-untyped-call]
        self.write(body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]


class ProbeSite(Site):
    """Answers probes."""

    noisy = False

    def __init__(self, request_class: Any, max_connections: int, reactor: Any) -> None:
        super().__init__(Resource(), requestFactory=request_class, timeout=IDLE_LIMIT, reactor=reactor)  # type: ignore[no-untyped-call]
        self._max_connections = max_connections
        self._open = 0

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        """None if there are too many already."""
        if self._open >= self._max_connections:
            return None
        channel: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        self._open += 1
        lost = channel.connectionLost

        def connection_lost(reason: Any) -> None:
            self._open -= 1
            lost(reason)

        channel.connectionLost = connection_lost
        return channel

    def log(self, request: Request) -> None:
        """A probe every few seconds is no news."""


class ProbeEndpoint:
    """Listens for probes."""

    def __init__(
        self, what: str, address: tuple[str, int], request_class: Any, max_connections: int, reactor: Any
    ) -> None:
        """
        @param what: its name for people, such as ``health check service``.
        @param address: host and port.  An empty host means all addresses; port 0 lets the kernel pick one.
        @param request_class: makes a `ProbeRequest` for each request.
        @param max_connections: more are closed at once.
        """
        self._what = what
        self._address = address
        self._request_class = request_class
        self._max_connections = max_connections
        self._reactor = reactor
        self._listening: Any = None

    def start(self) -> None:
        """Listen.  Raises ConfigError."""
        self._listening = self._listen()
        log.info("{what} listens on {address}", what=self._what, address=show(self.host, self.port))

    @property
    def host(self) -> str:
        """Of the address that is bound."""
        host: str = self._listening.getHost().host
        return host

    @property
    def port(self) -> int:
        """The port that is bound."""
        port: int = self._listening.getHost().port
        return port

    def _listen(self) -> Any:
        failed: CannotListenError | None = None
        host, port = self._address
        site = ProbeSite(self._request_class, self._max_connections, self._reactor)
        for interface in [host] if host else ["::", ""]:  # the first takes IPv4 as well, where there is IPv6
            try:
                return self._reactor.listenTCP(port, site, interface=interface)
            except CannotListenError as error:
                failed = failed or error
        assert failed is not None
        raise ConfigError(
            f"failed to initialize {self._what}: cannot listen on {host}:{port}: {failed.socketError}"
        ) from failed

    async def stop(self) -> None:
        """Listen no more."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.stopListening()
