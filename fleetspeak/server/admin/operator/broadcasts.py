"""Broadcasts: looked at, paused and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fleetspeak.errors import InvalidRecord
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common, operator
from fleetspeak.store.checks import BROADCAST_ID_SIZE


class BroadcastOperations:
    """The operations on broadcasts."""

    def __init__(self, store: IStore, broadcasts_changed: Callable[[], object]) -> None:
        """`broadcasts_changed` is called when they have, so that this server sees it at once."""
        self._store = store
        self._broadcasts_changed = broadcasts_changed

    async def pause_broadcasts(self, request: operator.BroadcastIds) -> common.EmptyMessage:
        """Send no more of these until they are resumed."""
        broadcast_ids = _broadcast_ids(request.broadcast_ids)
        if broadcast_ids:
            await self._store.pause_broadcasts(broadcast_ids)
            self._broadcasts_changed()
        return common.EmptyMessage()

    async def resume_broadcasts(self, request: operator.BroadcastIds) -> common.EmptyMessage:
        """Go on with these, as far as they are paused."""
        broadcast_ids = _broadcast_ids(request.broadcast_ids)
        if broadcast_ids:
            await self._store.resume_broadcasts(broadcast_ids)
            self._broadcasts_changed()
        return common.EmptyMessage()


def _broadcast_ids(raw_ids: Iterable[bytes]) -> list[bytes]:
    found = list(raw_ids)
    for index, broadcast_id in enumerate(found):
        if len(broadcast_id) != BROADCAST_ID_SIZE:
            raise InvalidRecord(f"unable to parse id [{index}]: BroadcastID must be {BROADCAST_ID_SIZE} bytes")
    return found
