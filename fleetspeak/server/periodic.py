"""Work that is done again and again, one time after the other, for as long as a server runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from fleetspeak.program.awaiting import when_done

log = Logger()


class Periodic:
    """Does it with a pause from the end of one time to the beginning of the next.  All in the reactor's thread."""

    def __init__(
        self, what: str, work: Callable[[], Coroutine[Any, Any, None]], pause: Callable[[], float], reactor: Any
    ) -> None:
        """
        @param what: for the log, if `work` raises what it should not.
        @param work: cancelled if it is under way when this stops.
        @param pause: seconds, asked for each time.
        """
        self._what = what
        self._work = work
        self._pause = pause
        self._reactor = reactor
        self._timer: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._again = self._going = False

    def start(self, *, at_once: bool = False) -> None:
        """Begin with a pause, or without."""
        self._going = True
        if at_once:
            self._begin()
        else:
            self._set_timer()

    async def stop(self) -> None:
        """End it; returns when what was under way is over."""
        self._going = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        running = self._running
        if running is not None:
            running.cancel()
            await when_done(running)

    def soon(self) -> None:
        """Do it now, or once more if it is being done: it may have looked already at what has changed since."""
        self._again = self._running is not None
        if self._timer is not None:
            self._timer.cancel()
            self._begin()

    def _set_timer(self) -> None:
        self._timer = self._reactor.callLater(self._pause(), self._begin)

    def _begin(self) -> None:
        self._timer = None
        running = self._running = Deferred.fromCoroutine(self._work())
        running.addErrback(self._failed)
        running.addBoth(self._done)

    def _failed(self, failure: Any) -> None:
        if self._going:
            log.failure("cannot {what}", failure=failure, what=self._what)

    def _done(self, _: object) -> None:
        self._running = None
        if not self._going:
            return
        if self._again:
            self._again = False
            self._begin()
        else:
            self._set_timer()
