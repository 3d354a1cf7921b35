"""Callers that keep us waiting: with the request, or with taking the replies.  They hold a thread meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

if TYPE_CHECKING:
    import grpc

LOOKS = 10
"""Looks within the time that a caller has."""

log = Logger()


class Patience:
    """Cancels calls whose callers keep a thread waiting for too long.

    One look at all of them every few seconds: a timer for each wait would wake the reactor twice a call.
    """

    def __init__(self, limit: float, reactor: Any) -> None:
        """`limit`: seconds."""
        self._limit = limit
        self._reactor = reactor
        self._waits: dict[object, tuple[float, grpc.ServicerContext]] = {}
        self._looks = LoopingCall(self._look)
        self._looks.clock = reactor

    def start(self) -> None:
        """Look, from now on."""
        running: Deferred[Any] = self._looks.start(self._limit / LOOKS, now=False)
        running.addErrback(lambda failure: log.failure("slow callers are waited for", failure=failure))

    def stop(self) -> None:
        """Look no more."""
        if self._looks.running:
            self._looks.stop()

    @contextmanager
    def waiting(self, context: grpc.ServicerContext) -> Iterator[None]:
        """In any thread: what is done meanwhile takes as long as the caller likes."""
        key = object()
        self._waits[key] = self._reactor.seconds(), context
        try:
            yield
        finally:
            del self._waits[key]

    def _look(self) -> None:
        latest = self._reactor.seconds() - self._limit
        for since, context in list(self._waits.values()):
            if since <= latest:
                context.cancel()
