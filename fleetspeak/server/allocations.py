"""On a server without clients: shares of broadcasts that servers have left behind are given back.

Servers with clients do this whenever they refresh what they know of broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from fleetspeak.core.broadcasts import GRACE_NS
from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.program.awaiting import when_done

log = Logger()


class AllocationSweep:
    """Gives expired shares back, again and again."""

    def __init__(self, store: IStore, reactor: Any, now_ns: Callable[[], int], interval: float) -> None:
        """@param interval: seconds between two sweeps."""
        self._store = store
        self._now_ns = now_ns
        self._interval = interval
        self._sweeps = LoopingCall(self._sweep)
        self._sweeps.clock = reactor
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """Sweep now, and then at intervals."""
        looping: Deferred[Any] = self._sweeps.start(self._interval)
        looping.addErrback(lambda failure: log.failure("shares of broadcasts are swept no more", failure=failure))

    async def stop(self) -> None:
        """Sweep no more; wait for a sweep that is under way."""
        if self._sweeps.running:
            self._sweeps.stop()
        if self._running is not None:
            await when_done(self._running)

    def _sweep(self) -> Deferred[None]:
        self._running = Deferred.fromCoroutine(self.sweep())
        return self._running

    async def sweep(self) -> None:
        """Sweep once."""
        try:
            found = await self._store.sweep_allocations(self._now_ns() - GRACE_NS)
        except StoreError as error:
            log.error("cannot sweep shares of broadcasts: {error}", error=error)
        else:
            if found:
                log.info("{count} shares of broadcasts that servers left behind are given back", count=found)
