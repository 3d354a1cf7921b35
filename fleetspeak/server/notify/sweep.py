"""The safety net below notifications: what waits for clients that have a stream here is looked for now and then."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IStore
from fleetspeak.server.periodic import Periodic

INTERVAL = 60.0
"""Seconds between two looks, give or take a half by chance: so late can a message be whose notification got lost."""

PAGE = 500
"""Clients that are asked for at a time."""

log = Logger()


class Streams(Protocol):
    """`fleetspeak.server.dispatch.Dispatcher`: the clients that have streams here."""

    def client_ids(self) -> list[ClientId]: ...

    def dispatch(self, client_id: ClientId) -> bool: ...


class StreamSweep:
    """Wakes streams for whose clients messages are due.  All in the reactor's thread."""

    def __init__(
        self,
        store: IStore,
        streams: Streams,
        reactor: Any,
        *,
        interval: float = INTERVAL,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """@param uniform: spreads the looks of several servers."""
        self._store = store
        self._streams = streams
        self._looks = Periodic(
            "look for messages of connected clients", self._sweep, lambda: interval * (0.5 + uniform()), reactor
        )

    def start(self) -> None:
        """Look from now on."""
        self._looks.start()

    async def stop(self) -> None:
        """Look no more."""
        await self._looks.stop()

    async def _sweep(self) -> None:
        try:
            client_ids = self._streams.client_ids()
            for start in range(0, len(client_ids), PAGE):
                for client_id in await self._store.clients_with_due_messages(client_ids[start : start + PAGE]):
                    self._streams.dispatch(client_id)
        except StoreError as error:
            log.error("cannot look for messages of connected clients: {error}", error=error)
