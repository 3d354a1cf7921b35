"""What this process knows of clients, for a short while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from fleetspeak.ids import ClientId
from fleetspeak.records import ClientData

LIFETIME = 45.0
"""Seconds for which an entry counts: so late may an administrator's change be seen."""


class _Reader(Protocol):
    def __call__(self, client_ids: list[ClientId]) -> Deferred[dict[ClientId, ClientData]]: ...


class ClientCache:
    """Client data by client id, read through from the store.

    Entries are frozen values, so that nobody can change what another one sees.  An entry's time counts from when
    it was written and is not prolonged by being read.  All in the reactor's thread.
    """

    def __init__(self, read: _Reader, seconds: Callable[[], float]) -> None:
        """`read` is `IStore.client_data`; `seconds` a steady clock, such as `reactor.seconds`."""
        self._read = read
        self._seconds = seconds
        self._entries: OrderedDict[ClientId, tuple[float, ClientData]] = OrderedDict()
        """By time of writing, oldest first."""
        self._changes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, client_id: ClientId) -> ClientData | None:
        """What is known without asking the store, if it is fresh."""
        entry = self._entries.get(client_id)
        if entry is None or entry[0] <= self._seconds():
            return None
        return entry[1]

    def put(self, client_id: ClientId, data: ClientData) -> None:
        """Remember `data`, and forget what is too old."""
        self._entries.pop(client_id, None)
        self._entries[client_id] = (self._seconds() + LIFETIME, data)
        self.sweep()

    async def lookup(self, client_id: ClientId) -> ClientData | None:
        """What is known, asking the store if need be; None for an unknown client.  Raises StoreError."""
        found = self.get(client_id)
        if found is None:
            found = await self._fetch(client_id)
        return found

    def invalidate(self, client_id: ClientId) -> None:
        """Ask the store the next time."""
        self._changes += 1
        self._entries.pop(client_id, None)

    def clear(self) -> None:
        """Forget everything."""
        self._changes += 1
        self._entries.clear()

    def sweep(self) -> None:
        """Drop expired entries.  Costs as much as there are to drop."""
        now = self._seconds()
        while self._entries:
            client_id, (expiry, _) = next(iter(self._entries.items()))
            if expiry > now:
                return
            del self._entries[client_id]

    async def _fetch(self, client_id: ClientId) -> ClientData | None:
        changes = self._changes
        found = (await self._read([client_id])).get(client_id)
        if found is not None and changes == self._changes:  # else it may have been read before the change
            self.put(client_id, found)
        return found
