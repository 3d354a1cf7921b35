"""Broadcasts: looked for by pages, created, paused and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleetspeak.errors import InvalidRecord
from fleetspeak.interfaces import IOperatorStore, IStore
from fleetspeak.listings import BroadcastState, ListedBroadcast
from fleetspeak.pb import common, operator
from fleetspeak.server.admin.operations import checked_broadcast
from fleetspeak.server.admin.operator.paging import Page, broadcast_ids, choice


class BroadcastOperations:
    """The operations on broadcasts that every store can carry out."""

    def __init__(self, store: IStore, broadcasts_changed: Callable[[], object]) -> None:
        """`broadcasts_changed` is called when they have, so that servers see it at once."""
        self._store = store
        self._broadcasts_changed = broadcasts_changed

    async def create_broadcast(self, request: operator.CreateBroadcastRequest) -> operator.CreateBroadcastResponse:
        """Store a broadcast; it begins at once."""
        broadcast = checked_broadcast(request)
        if request.max_errors >= 2**31:
            raise InvalidRecord("max_errors must be below 2147483648", "max_errors")
        await self._store.create_broadcast(broadcast, request.limit, request.max_errors)
        self._broadcasts_changed()
        return operator.CreateBroadcastResponse(broadcast_id=broadcast.broadcast_id)

    async def pause_broadcasts(self, request: operator.BroadcastIds) -> common.EmptyMessage:
        """Send no more of these until they are resumed."""
        return await self._change(self._store.pause_broadcasts, request)

    async def resume_broadcasts(self, request: operator.BroadcastIds) -> common.EmptyMessage:
        """Go on with these, as far as they are paused."""
        return await self._change(self._store.resume_broadcasts, request)

    async def _change(
        self, change: Callable[[list[bytes]], Any], request: operator.BroadcastIds
    ) -> common.EmptyMessage:
        wanted = broadcast_ids(request.broadcast_ids)
        if wanted:
            await change(wanted)
            self._broadcasts_changed()
        return common.EmptyMessage()


class BroadcastLists:
    """The list of broadcasts."""

    def __init__(self, store: IOperatorStore, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._now_ns = now_ns

    async def list_broadcasts(self, request: operator.ListBroadcastsRequest) -> operator.ListBroadcastsResponse:
        """A page of broadcasts by ascending id."""
        page = Page(request, bytes)
        state = choice("state", request.state, BroadcastState)
        [after] = page.key or [b""]
        found = await self._store.broadcast_page(state, request.service, after, page.look)
        broadcasts, token = page.cut(found, lambda one: [one.broadcast.broadcast_id])
        now_ns = self._now_ns()
        return operator.ListBroadcastsResponse(
            broadcasts=[_entry(one, now_ns) for one in broadcasts], next_page_token=token
        )


def _entry(listed: ListedBroadcast, now_ns: int) -> operator.BroadcastEntry:
    return operator.BroadcastEntry(
        broadcast=listed.broadcast,
        state=operator.BroadcastState.ValueType(listed.state(now_ns).value),
        limit=listed.limit,
        sent=listed.sent,
        allocated=listed.allocated,
        errors=listed.errors,
        max_errors=listed.max_errors,
    )
