"""What is known of clients that have a stream here is kept current: a stream lives long, and things change."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IStore
from fleetspeak.program.awaiting import when_done
from fleetspeak.records import ClientData
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.periodic import Periodic

INTERVAL = 30.0
"""Seconds from one look at all of them to the next: so late a stream hears of what another server was told.  With the
look itself less than the 45 s for which other servers may believe what they know."""

PAGE = 200
"""Clients that are looked at in one go."""

log = Logger()


class Streams(Protocol):
    """`fleetspeak.server.dispatch.Dispatcher`: the clients that have streams here."""

    def __contains__(self, client_id: ClientId) -> bool: ...

    def client_ids(self) -> list[ClientId]: ...

    def refresh(self, client_id: ClientId, client: ClientData) -> None: ...


class Standing:
    """Lets streams know what has become of their clients.  All in the reactor's thread."""

    def __init__(
        self, store: IStore, streams: Streams, cache: ClientCache, reactor: Any, interval: float = INTERVAL
    ) -> None:
        """@param interval: seconds between two looks at all of them."""
        self._store = store
        self._streams = streams
        self._cache = cache
        self._all = Periodic("look at connected clients", self._look_at_all, lambda: interval, reactor)
        self._looks: set[Deferred[None]] = set()
        self._changes = 0

    def start(self) -> None:
        """Look from now on."""
        self._all.start()

    async def stop(self) -> None:
        """Look no more."""
        await self._all.stop()
        for look in list(self._looks):
            look.cancel()
            await when_done(look)

    def client_changed(self, client_id: ClientId) -> None:
        """Something about a client has changed in the store: forget what is known, and tell its stream at once."""
        self._changes += 1
        self._cache.invalidate(client_id)
        if client_id in self._streams:
            self._begin([client_id])

    async def _look_at_all(self) -> None:
        await self._look(self._streams.client_ids())

    def _begin(self, client_ids: list[ClientId]) -> None:
        look = Deferred.fromCoroutine(self._look(client_ids))
        self._looks.add(look)
        look.addErrback(lambda failure: log.failure("cannot look at connected clients", failure=failure))
        look.addBoth(lambda _: self._looks.discard(look))

    async def _look(self, client_ids: list[ClientId]) -> None:
        for start in range(0, len(client_ids), PAGE):
            changes = self._changes
            try:
                found = await self._store.client_data(client_ids[start : start + PAGE])
            except StoreError as error:
                log.error("cannot look at connected clients: {error}", error=error)
                return
            if changes != self._changes and len(client_ids) > 1:
                continue  # it may be older than the change, of which the stream was told
            for client_id, client in found.items():
                self._streams.refresh(client_id, client)
