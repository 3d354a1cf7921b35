"""On a server without clients: shares of broadcasts that servers have left behind are given back.

Servers with clients do this whenever they refresh what they know of broadcasts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from fleetspeak.core.broadcasts import GRACE_NS
from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.server.periodic import Periodic

log = Logger()


class AllocationSweep:
    """Gives expired shares back, again and again."""

    def __init__(self, store: IStore, reactor: Any, now_ns: Callable[[], int], interval: float) -> None:
        """@param interval: seconds between two sweeps."""
        self._store = store
        self._now_ns = now_ns
        self._sweeps = Periodic("sweep shares of broadcasts", self.sweep, lambda: interval, reactor)

    def start(self) -> None:
        """Sweep now, and then at intervals."""
        self._sweeps.start(at_once=True)

    async def stop(self) -> None:
        """Sweep no more."""
        await self._sweeps.stop()

    async def sweep(self) -> None:
        """Sweep once."""
        try:
            found = await self._store.sweep_allocations(self._now_ns() - GRACE_NS)
        except StoreError as error:
            log.error("cannot sweep shares of broadcasts: {error}", error=error)
        else:
            if found:
                log.info("{count} shares of broadcasts that servers left behind are given back", count=found)
