"""Broadcasts, their shares, and who was sent what.

The row of a broadcast is locked before anything that depends on its sums is read, and sums change by relative
updates, so that no server overwrites what another one counted.  `fleetspeak.core.broadcasts.Account` says the same
without a database.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyProto

from fleetspeak import ids
from fleetspeak.core.broadcasts import DISABLED, refusal, replaces, share
from fleetspeak.errors import AlreadyExists, NotFound, NotSent, StoreError
from fleetspeak.ids import ClientId
from fleetspeak.pb import broadcasts
from fleetspeak.records import UNLIMITED, ActiveBroadcast, Allocation, BroadcastSend
from fleetspeak.store.checks import contact_row
from fleetspeak.store.sql import contacts, messages
from fleetspeak.store.sql.dialect import Connection, Row
from fleetspeak.store.sql.rows import MessageRows, rows_of
from fleetspeak.store.sql.statements import insert, rows_in, run_in
from fleetspeak.store.timing import Timing

ALLOCATION_ID_SIZE = 8

_COLUMNS = (
    "broadcast_id",
    "source_service_name",
    "destination_service_name",
    "message_type",
    "expiration_time_seconds",
    "expiration_time_nanos",
    "data_type_url",
    "data_value",
    "sent",
    "allocated",
    "message_limit",
    "group_name",
    "max_errors",
)
_ACTIVE = (
    " FROM broadcasts WHERE sent < message_limit AND (expiration_time_seconds IS NULL"
    " OR expiration_time_seconds > ? OR (expiration_time_seconds = ? AND expiration_time_nanos > ?))"
)

NewBroadcast = tuple[broadcasts.Broadcast, int, int]
"""A broadcast, its limit, and how many errors it may have."""


def create(db: Connection, new: NewBroadcast, *, timing: Timing) -> None:
    """Store a broadcast.  Raises AlreadyExists."""
    broadcast, limit, max_errors = new
    broadcast_id = broadcast.broadcast_id
    if _known(db, [broadcast_id]):
        raise AlreadyExists(f"there is a broadcast {ids.show(broadcast_id)} already")
    if broadcast.group_name:
        old = [one.broadcast for one in active(db, timing=timing)]
        disable(db, [one.broadcast_id for one in old if replaces(broadcast, one)])
    expires, data = broadcast.HasField("expiration_time"), broadcast.HasField("data")
    row = (
        broadcast_id,
        broadcast.source.service_name,
        broadcast.destination.service_name if broadcast.HasField("destination") else None,
        broadcast.message_type,
        broadcast.expiration_time.seconds if expires else None,
        broadcast.expiration_time.nanos if expires else None,
        broadcast.data.type_url if data else None,
        broadcast.data.value if data else None,
        0,
        0,
        limit,
        broadcast.group_name or None,
        max_errors or None,
    )
    insert(db, "broadcasts", _COLUMNS, list(row))
    labels = dict.fromkeys((label.service_name, label.label) for label in broadcast.required_labels)
    flat = [value for label in labels for value in (broadcast_id, *label)]
    insert(db, "broadcast_labels", ("broadcast_id", "service_name", "label"), flat)


def active(db: Connection, *, timing: Timing) -> list[ActiveBroadcast]:
    """Those that may still be sent, by id."""
    rows = db.rows(f"SELECT {', '.join(_COLUMNS)}{_ACTIVE} ORDER BY broadcast_id", _now(timing))
    found = {row[0]: ActiveBroadcast(broadcast_of(row), row[8], row[10], row[12] or 0) for row in rows}
    add_labels(db, {broadcast_id: one.broadcast for broadcast_id, one in found.items()})
    return list(found.values())


def add_labels(db: Connection, found: Mapping[bytes, broadcasts.Broadcast]) -> None:
    """Let broadcasts, by their ids, require what they do."""
    labels = rows_in(
        db,
        "SELECT broadcast_id, service_name, label FROM broadcast_labels WHERE broadcast_id IN ({keys})",
        (),
        list(found),
    )
    for broadcast_id, service_name, label in sorted(labels):
        found[broadcast_id].required_labels.add(service_name=service_name, label=label)


def active_ids(db: Connection, *, timing: Timing) -> list[bytes]:
    """Their ids."""
    return sorted(broadcast_id for (broadcast_id,) in db.rows("SELECT broadcast_id" + _ACTIVE, _now(timing)))


def _now(timing: Timing) -> tuple[int, int, int]:
    seconds, nanos = divmod(timing.now_ns(), 10**9)
    return seconds, seconds, nanos


def broadcast_of(row: Row) -> broadcasts.Broadcast:
    """The broadcast in a row of `_COLUMNS`, without labels."""
    broadcast = broadcasts.Broadcast(broadcast_id=row[0], message_type=row[3], group_name=row[11] or "")
    broadcast.source.service_name = row[1]
    if row[2] is not None:
        broadcast.destination.SetInParent()
        broadcast.destination.service_name = row[2]
    if row[4] is not None:
        broadcast.expiration_time.seconds, broadcast.expiration_time.nanos = row[4], row[5] or 0
        broadcast.expiration_time.SetInParent()
    if row[6] is not None:
        broadcast.data.CopyFrom(AnyProto(type_url=row[6], value=row[7] or b""))
    return broadcast


def sent(db: Connection, calls: Sequence[Sequence[ClientId]]) -> list[dict[ClientId, list[bytes]]]:
    """For each call, what its clients were sent."""
    found: dict[bytes, list[bytes]] = {}
    for client_id, broadcast_id in rows_in(
        db,
        "SELECT client_id, broadcast_id FROM broadcast_sent WHERE client_id IN ({keys})",
        (),
        list(dict.fromkeys(client_id for call in calls for client_id in call)),
    ):
        found.setdefault(client_id, []).append(broadcast_id)
    return [{client_id: sorted(found[client_id]) for client_id in call if client_id in found} for call in calls]


def allocate(db: Connection, broadcast_id: bytes, fraction: float, expiry_ns: int) -> Allocation | None:
    """Take a share, if there is anything left.  Raises NotFound."""
    known = _known(db, [broadcast_id])
    if not known:
        raise NotFound(f"there is no broadcast {ids.show(broadcast_id)}")
    [(_, sent, allocated, limit, _)] = known
    size = UNLIMITED
    if limit != UNLIMITED:
        size = share(limit, sent + allocated, fraction)
        if not size:
            return None
        db.run("UPDATE broadcasts SET allocated = allocated + ? WHERE broadcast_id = ?", (size, broadcast_id))
    allocation_id = secrets.token_bytes(ALLOCATION_ID_SIZE)
    db.run(
        "INSERT INTO broadcast_allocations (broadcast_id, allocation_id, sent, message_limit,"
        " expiration_time_seconds, expiration_time_nanos) VALUES (?, ?, 0, ?, ?, ?)",
        (broadcast_id, allocation_id, size, *divmod(expiry_ns, 10**9)),
    )
    return Allocation(allocation_id, size, expiry_ns)


class PreparedSend:
    """A `BroadcastSend` that was checked and made ready to be written."""

    __slots__ = ("allocation", "client_id", "contact_row", "rows")

    def __init__(self, send: BroadcastSend) -> None:
        """Raises InvalidRecord."""
        self.rows: MessageRows = rows_of([send.message])
        self.client_id = send.message.destination.client_id
        self.contact_row = contact_row(send.contact_id)
        self.allocation = (send.broadcast_id, send.allocation_id)


def save(db: Connection, sends: Sequence[PreparedSend], *, timing: Timing) -> list[None]:
    """Carry out sends.  Raises StoreError if any of them cannot be."""
    now_ns = timing.now_ns()
    for allocation, count in sorted(Counter(send.allocation for send in sends).items()):
        _count(db, *allocation, count, now_ns)
    flat: list[Any] = []
    for send in sends:
        flat += (send.client_id, send.allocation[0], send.rows.message_ids[0])
    if insert(db, "broadcast_sent", ("client_id", "broadcast_id", "message_id"), flat, ignore=True) < len(sends):
        raise AlreadyExists("the client was sent this broadcast before")
    gathered = MessageRows()
    for send in sends:
        gathered.extend(send.rows)
    messages.store(db, gathered, timing, now_ns)
    run_in(
        db,
        "UPDATE pending_messages SET scheduled_time = ? WHERE for_server = 0 AND message_id IN ({keys})",
        (timing.client_due(now_ns),),
        gathered.message_ids,
    )
    contacts.link(db, ((send.contact_row, send.rows.message_ids) for send in sends if send.contact_row is not None))
    return [None] * len(sends)


def _count(db: Connection, broadcast_id: bytes, allocation_id: bytes, count: int, now_ns: int) -> None:
    """Count what is about to be sent on a share, or on none.  Raises NotSent if there is not so much left."""
    if not allocation_id:
        rows = db.rows("SELECT message_limit FROM broadcasts WHERE broadcast_id = ?", (broadcast_id,))
        if not rows or not rows[0][0]:
            raise NotSent(DISABLED)
        return
    counted = db.run(
        "UPDATE broadcast_allocations SET sent = sent + ? WHERE broadcast_id = ? AND allocation_id = ?"
        " AND sent + ? <= message_limit AND (expiration_time_seconds > ?"
        " OR (expiration_time_seconds = ? AND expiration_time_nanos > ?))",
        (count, broadcast_id, allocation_id, count, now_ns // 10**9, *divmod(now_ns, 10**9)),
    )
    if not counted:
        raise NotSent(_why_not(db, broadcast_id, allocation_id, count, now_ns))


def _why_not(db: Connection, broadcast_id: bytes, allocation_id: bytes, count: int, now_ns: int) -> str:
    rows = db.rows(
        "SELECT sent, message_limit, expiration_time_seconds, expiration_time_nanos FROM broadcast_allocations"
        " WHERE broadcast_id = ? AND allocation_id = ?" + db.dialect.for_update,
        (broadcast_id, allocation_id),
    )
    if not rows:
        return DISABLED
    [(sent, limit, seconds, nanos)] = rows
    return refusal(sent + count - 1, limit, seconds * 10**9 + nanos, now_ns) or DISABLED


def clean_up(db: Connection, broadcast_id: bytes, allocation_id: bytes, sent: int) -> None:
    """Give a share back."""
    if not allocation_id:
        db.run("UPDATE broadcasts SET sent = sent + ? WHERE broadcast_id = ?", (sent, broadcast_id))
        return
    if _known(db, [broadcast_id]):
        held = _shares(db, "broadcast_id = ? AND allocation_id = ?", (broadcast_id, allocation_id))
        _give_back(db, held, sent)


def sweep(db: Connection, expired_ns: int) -> int:
    """Give back the shares that expired before then."""
    seconds, nanos = divmod(expired_ns, 10**9)
    expired = "(expiration_time_seconds < ? OR (expiration_time_seconds = ? AND expiration_time_nanos < ?))"
    when = (seconds, seconds, nanos)
    found = db.rows(f"SELECT DISTINCT broadcast_id FROM broadcast_allocations WHERE {expired}", when)
    ended = 0
    for (broadcast_id,) in sorted(found):
        _known(db, [broadcast_id])
        ended += _give_back(db, _shares(db, f"broadcast_id = ? AND {expired}", (broadcast_id, *when)), 0)
    return ended


def disable(db: Connection, broadcast_ids: Iterable[bytes]) -> None:
    """Send no more of these."""
    for broadcast_id, *_ in _known(db, broadcast_ids):
        _give_back(db, _shares(db, "broadcast_id = ?", (broadcast_id,)), 0)
        db.run("UPDATE broadcasts SET message_limit = 0, paused_limit = NULL WHERE broadcast_id = ?", (broadcast_id,))


def pause(db: Connection, broadcast_ids: Iterable[bytes]) -> None:
    """Disable, and remember the limit."""
    for broadcast_id, _, _, limit, _ in _known(db, broadcast_ids):
        if limit:
            disable(db, [broadcast_id])
            db.run("UPDATE broadcasts SET paused_limit = ? WHERE broadcast_id = ?", (limit, broadcast_id))


def resume(db: Connection, broadcast_ids: Iterable[bytes]) -> None:
    """Give those that are paused their limits back."""
    for broadcast_id, _, _, _, paused_limit in _known(db, broadcast_ids):
        if paused_limit is not None:
            db.run(
                "UPDATE broadcasts SET message_limit = ?, paused_limit = NULL WHERE broadcast_id = ?",
                (paused_limit, broadcast_id),
            )


def errors(db: Connection, broadcast_ids: Sequence[bytes]) -> dict[bytes, int]:
    """How many clients failed with each."""
    found = rows_in(
        db,
        "SELECT s.broadcast_id, COUNT(*) FROM broadcast_sent AS s JOIN messages AS m ON m.message_id = s.message_id"
        " WHERE m.failed = 1 AND s.broadcast_id IN ({keys}) GROUP BY s.broadcast_id",
        (),
        list(dict.fromkeys(broadcast_ids)),
    )
    return dict(found)


def _known(db: Connection, broadcast_ids: Iterable[bytes]) -> list[Row]:
    """Lock broadcasts: id, sent, allocated, limit and paused limit of those there are."""
    return sorted(
        rows_in(
            db,
            "SELECT broadcast_id, sent, allocated, message_limit, paused_limit FROM broadcasts"
            " WHERE broadcast_id IN ({keys})" + db.dialect.for_update,
            (),
            sorted(set(broadcast_ids)),
        )
    )


def _shares(db: Connection, where: str, parameters: Sequence[Any]) -> list[Row]:
    """Lock shares: broadcast, id, sent and limit."""
    return db.rows(
        f"SELECT broadcast_id, allocation_id, sent, message_limit FROM broadcast_allocations WHERE {where}"
        + db.dialect.for_update,
        parameters,
    )


def _give_back(db: Connection, shares: Sequence[Row], sent: int) -> int:
    """End shares, on each of which at least so much was sent.  Their broadcasts are locked.  Returns how many."""
    for broadcast_id, allocation_id, counted, limit in shares:
        given_back = 0 if limit == UNLIMITED else limit
        db.run(
            "UPDATE broadcasts SET sent = sent + ?,"
            " allocated = CASE WHEN allocated > ? THEN allocated - ? ELSE 0 END WHERE broadcast_id = ?",
            (max(sent, counted), given_back, given_back, broadcast_id),
        )
        if not db.run(
            "DELETE FROM broadcast_allocations WHERE broadcast_id = ? AND allocation_id = ?",
            (broadcast_id, allocation_id),
        ):
            raise StoreError("a share of a broadcast was given back by two at a time; try again")
    return len(shares)
