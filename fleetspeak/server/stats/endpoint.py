"""Where Prometheus comes for the metrics."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from fleetspeak.server.probes import ProbeEndpoint, ProbeRequest
from fleetspeak.server.stats.collector import MetricsCollector
from fleetspeak.server.stats.exposition import CONTENT_TYPE, Exposition

PATH = b"/metrics"

MAX_CONNECTIONS = 16
"""Each may hold a page, until it is cut off because its peer does not read."""


class Scrape(ProbeRequest):
    """``GET /metrics``; everything else is not found."""

    def __init__(self, exposition: Exposition, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)  # type: ignore[no-untyped-call]
        self._exposition = exposition

    def process(self) -> None:
        """Answer when the page is written."""
        if self.path != PATH or self.method not in (b"GET", b"HEAD"):
            self.answer(404, b"404 page not found\n")
            return
        page = self._exposition.page()
        self.notifyFinish().addErrback(lambda _: page.cancel())
        page.addCallbacks(
            lambda body: self.answer(200, body, CONTENT_TYPE),
            lambda _: self.answer(500, b"the metrics cannot be written; the server's log says why\n"),
        )


def make_endpoint(collector: MetricsCollector, address: tuple[str, int], reactor: Any) -> ProbeEndpoint:
    """The endpoint, to be started."""

    def in_thread(write: Any) -> Deferred[bytes]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), write)

    exposition = Exposition(collector.read, in_thread, reactor.seconds)

    def scrape(*arguments: Any, **named: Any) -> Scrape:
        return Scrape(exposition, *arguments, **named)

    return ProbeEndpoint("metrics endpoint", address, scrape, MAX_CONNECTIONS, reactor)
