"""The broadcasts of the store in memory."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fleetspeak import ids
from fleetspeak.core.broadcasts import Account, replaces
from fleetspeak.errors import AlreadyExists, NotFound, NotSent
from fleetspeak.ids import ClientId
from fleetspeak.listings import ListedBroadcast
from fleetspeak.pb import broadcasts
from fleetspeak.records import ActiveBroadcast, Allocation


@dataclass
class _Kept:
    broadcast: broadcasts.Broadcast
    account: Account
    max_errors: int
    ended_ns: int | None = None
    """When it was first seen to have ended."""


class MemoryBroadcasts:
    """Broadcasts, and who was sent what.  Checks nothing but what depends on what there is."""

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}
        self.sent: dict[tuple[ClientId, bytes], bytes] = {}
        """The message by which a client was sent a broadcast."""

    def create(self, broadcast: broadcasts.Broadcast, limit: int, max_errors: int, now_ns: int) -> None:
        """See `IStore.create_broadcast`."""
        if broadcast.broadcast_id in self._kept:
            raise AlreadyExists(f"there is a broadcast {ids.show(broadcast.broadcast_id)} already")
        self.disable([one.broadcast.broadcast_id for one in self.active(now_ns) if replaces(broadcast, one.broadcast)])
        copy = broadcasts.Broadcast()
        copy.CopyFrom(broadcast)
        labels = sorted({(label.service_name, label.label) for label in broadcast.required_labels})
        copy.ClearField("required_labels")
        for service_name, label in labels:
            copy.required_labels.add(service_name=service_name, label=label)
        copy.source.ClearField("client_id")
        if copy.HasField("destination"):
            copy.destination.ClearField("client_id")
        self._kept[copy.broadcast_id] = _Kept(copy, Account(limit), max_errors)

    def active(self, now_ns: int) -> list[ActiveBroadcast]:
        """See `IStore.active_broadcasts`."""
        found = []
        for _, kept in sorted(self._kept.items()):
            account, expiry = kept.account, kept.broadcast.expiration_time
            expired = kept.broadcast.HasField("expiration_time") and expiry.ToNanoseconds() <= now_ns
            if account.sent < account.limit and not expired:
                copy = broadcasts.Broadcast()
                copy.CopyFrom(kept.broadcast)
                found.append(ActiveBroadcast(copy, account.sent, account.limit, kept.max_errors))
        return found

    def listed(self, has_failed: Callable[[bytes], bool]) -> list[ListedBroadcast]:
        """All of them, by id."""
        errors = Counter(broadcast_id for (_, broadcast_id), sent in self.sent.items() if has_failed(sent))
        found = []
        for broadcast_id, kept in sorted(self._kept.items()):
            account = kept.account
            copy = broadcasts.Broadcast()
            copy.CopyFrom(kept.broadcast)
            copy.ClearField("data")
            underway = sum(held.sent for held in account.shares.values())
            found.append(
                ListedBroadcast(
                    copy,
                    account.limit if account.paused_limit is None else account.paused_limit,
                    account.sent + underway,
                    max(0, account.allocated - underway),
                    account.paused_limit is not None,
                    errors[broadcast_id],
                    kept.max_errors,
                )
            )
        return found

    def sent_to(self, client_ids: Iterable[ClientId]) -> dict[ClientId, list[bytes]]:
        """See `IStore.sent_broadcasts`."""
        wanted = set(client_ids)
        found: dict[ClientId, list[bytes]] = {}
        for client_id, broadcast_id in sorted(self.sent):
            if client_id in wanted:
                found.setdefault(client_id, []).append(broadcast_id)
        return found

    def allocate(self, broadcast_id: bytes, fraction: float, expiry_ns: int) -> Allocation | None:
        """See `IStore.allocate_broadcast`."""
        kept = self._kept.get(broadcast_id)
        if kept is None:
            raise NotFound(f"there is no broadcast {ids.show(broadcast_id)}")
        allocation_id = secrets.token_bytes(8)
        size = kept.account.allocate(allocation_id, fraction, expiry_ns)
        return Allocation(allocation_id, size, expiry_ns) if size else None

    def check(self, broadcast_id: bytes, allocation_id: bytes, client_id: ClientId, now_ns: int) -> None:
        """Raise what `IStore.save_broadcast_messages` gives."""
        kept = self._kept.get(broadcast_id)
        refusal = (kept.account if kept else Account(0)).refusal(allocation_id, now_ns)
        if refusal:
            raise NotSent(refusal)
        if (client_id, broadcast_id) in self.sent:
            raise AlreadyExists("the client was sent this broadcast before")

    def count(self, broadcast_id: bytes, allocation_id: bytes, client_id: ClientId, message_id: bytes) -> None:
        """Remember what was checked."""
        self._kept[broadcast_id].account.count(allocation_id)
        self.sent[client_id, broadcast_id] = message_id

    def clean_up(self, broadcast_id: bytes, allocation_id: bytes, sent: int) -> None:
        """See `IStore.clean_up_allocation`."""
        for account in self._accounts([broadcast_id]):
            account.give_back(allocation_id, sent)

    def sweep(self, expired_ns: int) -> int:
        """See `IStore.sweep_allocations`."""
        return sum(account.sweep(expired_ns) for account in self._accounts(self._kept))

    def disable(self, broadcast_ids: Iterable[bytes]) -> None:
        """See `IStore.disable_broadcasts`."""
        for account in self._accounts(broadcast_ids):
            account.disable()

    def pause(self, broadcast_ids: Iterable[bytes]) -> None:
        """See `IStore.pause_broadcasts`."""
        for account in self._accounts(broadcast_ids):
            account.pause()

    def resume(self, broadcast_ids: Iterable[bytes]) -> None:
        """See `IStore.resume_broadcasts`."""
        for account in self._accounts(broadcast_ids):
            account.resume()

    # -- retention

    def note_ended(self, now_ns: int) -> None:
        """Remember which have ended."""
        for kept in self._kept.values():
            if not kept.account.ended:
                kept.ended_ns = None
            elif kept.ended_ns is None:
                kept.ended_ns = now_ns

    def ended_before(self, before_ns: int) -> list[bytes]:
        """Those that expired, or were seen to have ended, before then."""
        return [broadcast_id for broadcast_id, kept in self._kept.items() if _ended_before(kept, before_ns)]

    def rows_of(self, broadcast_id: bytes) -> dict[str, int]:
        """How many rows of each table it takes."""
        kept = self._kept[broadcast_id]
        return {
            "broadcasts": 1,
            "broadcast_allocations": len(kept.account.shares),
            "broadcast_labels": len(kept.broadcast.required_labels),
            "broadcast_sent": sum(of == broadcast_id for _, of in self.sent),
        }

    def delete(self, broadcast_id: bytes) -> None:
        """Forget a broadcast."""
        del self._kept[broadcast_id]
        self._forget(lambda _, of: of == broadcast_id)

    def forget_client(self, client_id: ClientId) -> None:
        """Forget what a client was sent."""
        self._forget(lambda of, _: of == client_id)

    def _forget(self, which: Callable[[ClientId, bytes], bool]) -> None:
        for key in [key for key in self.sent if which(*key)]:
            del self.sent[key]

    def _accounts(self, broadcast_ids: Iterable[bytes]) -> list[Account]:
        return [self._kept[one].account for one in dict.fromkeys(broadcast_ids) if one in self._kept]


def _ended_before(kept: _Kept, before_ns: int) -> bool:
    if kept.broadcast.HasField("expiration_time") and kept.broadcast.expiration_time.seconds < before_ns // 10**9:
        return True
    return kept.ended_ns is not None and kept.account.ended and kept.ended_ns < before_ns
