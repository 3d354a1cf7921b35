"""Broadcasts: how a limit is shared out to servers, and which clients a server's share goes to.  No I/O.

Everything rests on one sum, which no step may let grow beyond the limit: what was sent, and what servers hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fleetspeak.pb import broadcasts
from fleetspeak.records import UNLIMITED, Label

FRACTION = 0.2
"""Of what is left of a limit: what a server takes at a time; upstream's."""

REFILL_FRACTION = 0.5
"""The same for a server that has used up its share: it has more clients waiting."""

LIFETIME_NS = 600 * 10**9
"""Nanoseconds for which an allocation counts; upstream's."""

GRACE_NS = 600 * 10**9
"""Nanoseconds after its expiry when an allocation is given back whose server did not do so."""


def share(limit: int, taken: int, fraction: float) -> int:
    """How many of `limit`, of which so many were sent or belong to others, a server gets; 0: nothing is left.

    In single precision, as upstream reckons; at least 1 as long as there is 1.
    """
    left = limit - taken
    if left <= 0:
        return 0
    return min(left, max(1, int(_single(_single(left) * _single(fraction)))))


def _single(number: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return rounded


@dataclass(slots=True)
class Held:
    """An allocation, as its broadcast accounts for it."""

    limit: int
    expiry_ns: int
    sent: int = 0


@dataclass(slots=True)
class Account:
    """The account of one broadcast: what stores keep of it, and what their operations on it mean."""

    limit: int
    sent: int = 0
    """Of shares that were given back."""
    allocated: int = 0
    """The limits of the shares that servers hold, without unlimited ones."""
    shares: dict[bytes, Held] = field(default_factory=dict)
    paused_limit: int | None = None

    def allocate(self, allocation_id: bytes, fraction: float, expiry_ns: int) -> int:
        """Open a share.  Returns its size; 0: nothing is left, and there is none."""
        size = UNLIMITED
        if self.limit != UNLIMITED:
            size = share(self.limit, self.sent + self.allocated, fraction)
            self.allocated += size
        if size:
            self.shares[allocation_id] = Held(size, expiry_ns)
        return size

    def refusal(self, allocation_id: bytes, now_ns: int) -> str:
        """Why nothing can be sent on this share (empty: on none), or an empty text."""
        if not allocation_id:
            return "" if self.limit else DISABLED
        held = self.shares.get(allocation_id)
        if held is None:
            return DISABLED
        return refusal(held.sent, held.limit, held.expiry_ns, now_ns)

    def count(self, allocation_id: bytes) -> None:
        """One was sent, which was not refused."""
        if allocation_id:
            self.shares[allocation_id].sent += 1

    def give_back(self, allocation_id: bytes, sent: int) -> None:
        """End a share (empty: account for what was sent on none)."""
        if not allocation_id:
            self.sent += sent
        elif (held := self.shares.pop(allocation_id, None)) is not None:
            self.sent += max(sent, held.sent)
            if held.limit != UNLIMITED:
                self.allocated = max(0, self.allocated - held.limit)

    def sweep(self, expired_ns: int) -> int:
        """End the shares that expired before then.  Returns how many."""
        expired = [key for key, held in self.shares.items() if held.expiry_ns < expired_ns]
        for key in expired:
            self.give_back(key, 0)
        return len(expired)

    @property
    def ended(self) -> bool:
        """Nothing of it will ever be sent any more: it is used up, or disabled for good."""
        return self.sent >= self.limit and self.paused_limit is None

    def disable(self) -> None:
        """End all shares, and open no more."""
        for key in list(self.shares):
            self.give_back(key, 0)
        self.limit = 0
        self.paused_limit = None

    def pause(self) -> None:
        """Disable, and remember the limit."""
        limit = self.limit
        if limit:
            self.disable()
            self.paused_limit = limit

    def resume(self) -> None:
        """Undo `pause`."""
        if self.paused_limit is not None:
            self.limit, self.paused_limit = self.paused_limit, None


DISABLED = "broadcast disabled"
FULL = "the allocation is full"
EXPIRED = "the allocation is expired"


def refusal(sent: int, limit: int, expiry_ns: int, now_ns: int) -> str:
    """Why nothing can be sent on a share, or an empty text."""
    if sent >= limit:
        return FULL
    return EXPIRED if expiry_ns <= now_ns else ""


def replaces(new: broadcasts.Broadcast, old: broadcasts.Broadcast) -> bool:
    """Whether `new` takes the place of `old`: the same group, and the same clients and services."""
    return (
        bool(new.group_name)
        and new.group_name == old.group_name
        and new.source.service_name == old.source.service_name
        and destination_of(new) == destination_of(old)
        and labels_of(new) == labels_of(old)
    )


def destination_of(broadcast: broadcasts.Broadcast) -> str:
    """The client service that gets it."""
    return broadcast.destination.service_name or broadcast.source.service_name


def labels_of(broadcast: broadcasts.Broadcast) -> frozenset[Label]:
    """All of which a client must have."""
    return frozenset(Label(label.service_name, label.label) for label in broadcast.required_labels)


@dataclass(slots=True, eq=False)
class Entry:
    """What a server sends of one broadcast."""

    broadcast: broadcasts.Broadcast
    limit: int
    allocation_id: bytes = b""
    expiry_ns: int | None = None
    """Of the allocation; None: there is none."""
    max_errors: int = 0
    labels: frozenset[Label] = frozenset()
    service: str = ""
    ends_ns: int | None = None
    """When the broadcast itself expires."""
    sent: int = 0
    """Reserved, or sent."""
    accounted: int = 0
    """Of an unlimited broadcast: what the store knows of."""
    users: int = 0
    """Those that are sending it right now."""
    is_void: bool = False
    """The store refused it: it was disabled, or ended by somebody else."""

    def __post_init__(self) -> None:
        self.labels = labels_of(self.broadcast)
        self.service = destination_of(self.broadcast)
        if self.broadcast.HasField("expiration_time"):
            self.ends_ns = self.broadcast.expiration_time.ToNanoseconds()

    @property
    def broadcast_id(self) -> bytes:
        """Of the broadcast."""
        return self.broadcast.broadcast_id

    @property
    def has_room(self) -> bool:
        """Whether another client can get it."""
        return self.limit == UNLIMITED or self.sent < self.limit

    def is_over(self, now_ns: int) -> bool:
        """Whether nothing may be sent of it any more."""
        return self.is_void or any(end is not None and end <= now_ns for end in (self.expiry_ns, self.ends_ns))

    def is_for(self, labels: frozenset[Label]) -> bool:
        """Whether it is for clients with these labels."""
        return self.labels <= labels

    def reserve(self) -> bool:
        """Take one of the share.  False: it is used up."""
        if not self.has_room:
            return False
        self.sent += 1
        return True

    def unreserve(self) -> None:
        """Put one back that was not sent."""
        self.sent -= 1


def kept(entries: Iterable[Entry], now_ns: int, margin_ns: int) -> dict[bytes, Entry]:
    """The entries, by broadcast, that will do until the next refresh, which is due within `margin_ns`."""
    margin_ns = min(margin_ns, LIFETIME_NS // 2)
    return {
        entry.broadcast_id: entry
        for entry in entries
        if entry.has_room and not entry.is_void and (entry.expiry_ns is None or entry.expiry_ns > now_ns + margin_ns)
    }


def candidates(entries: Iterable[Entry], labels: frozenset[Label], now_ns: int) -> list[Entry]:
    """What may be sent to a client with these labels."""
    return [entry for entry in entries if entry.is_for(labels) and not entry.is_over(now_ns)]


def affordable(entries: Iterable[Entry], tokens: Mapping[str, int] | None) -> list[Entry]:
    """Those for which a client has tokens, one for each."""
    if tokens is None:
        return list(entries)
    left = dict(tokens)
    found = []
    for entry in entries:
        if left.get(entry.service, 0) > 0:
            left[entry.service] -= 1
            found.append(entry)
    return found
