"""The health endpoint: answers as long as the process lives."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Request as SiteRequest
from twisted.web.server import Site

from fleetspeak.config.addresses import show
from fleetspeak.errors import ConfigError

IDLE_LIMIT = 60
"""Seconds until a silent connection is closed."""

log = Logger()


class Probe(SiteRequest):
    """Whatever is asked, by whatever method: 200 and an empty body."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        """Make no room for a body, whatever its size."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        """Drop it."""

    def process(self) -> None:
        """Answer."""
        self.setHeader(b"content-length", b"0")  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]


class ProbeSite(Site):
    """Answers probes, without a line for each in the log."""

    noisy = False

    def __init__(self, reactor: Any) -> None:
        super().__init__(Resource(), requestFactory=Probe, timeout=IDLE_LIMIT, reactor=reactor)  # type: ignore[no-untyped-call]

    def log(self, request: Request) -> None:
        """A probe every few seconds is no news."""


class HealthEndpoint:
    """Listens for probes."""

    def __init__(self, host: str, port: int, reactor: Any) -> None:
        """An empty `host` means all addresses; port 0 lets the kernel pick one."""
        self._host = host
        self._port = port
        self._reactor = reactor
        self._listening: Any = None

    def start(self) -> None:
        """Listen.  Raises ConfigError."""
        self._listening = self._listen()
        at = self._listening.getHost()
        log.info("health endpoint listens on {address}", address=show(at.host, at.port))

    def _listen(self) -> Any:
        failed: CannotListenError | None = None
        for interface in (
            [self._host] if self._host else ["::", ""]
        ):  # the first takes IPv4 as well, where there is IPv6
            try:
                return self._reactor.listenTCP(self._port, ProbeSite(self._reactor), interface=interface)
            except CannotListenError as error:
                failed = failed or error
        assert failed is not None
        raise ConfigError(
            f"failed to initialize health check service: cannot listen on {self._host}:{self._port}: "
            f"{failed.socketError}"
        ) from failed

    async def stop(self) -> None:
        """Listen no more."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.stopListening()
