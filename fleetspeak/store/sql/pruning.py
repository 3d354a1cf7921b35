"""What is old enough to be deleted: looks that read a bounded number of rows, and change nothing.

Tables are walked in the order of their keys, a part at a time, since an index by time would have to be kept up with
each insert.  Where somebody has made one (`timeindexes`), a walk follows it, and sees nothing but what is old.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fleetspeak.records import Prunable, Prune
from fleetspeak.store.sql import timeindexes
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.statements import MAX_ROWS
from fleetspeak.store.timing import Timing

LOOKED_AT = 10
"""So many rows are looked at for each that may be deleted."""

FUTURE = 86_400
"""Seconds: a message that says it was created later than this from now is judged by its result alone."""

_HAS_RESULT = "(creation_time_seconds < ? OR creation_time_seconds > ?) AND processed_time_seconds < ?"
_CLIENT_GONE = (
    "({column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM clients WHERE clients.client_id = messages.{column}))"
)
_OF_NO_CLIENT = (
    f"({_CLIENT_GONE.format(column='source_client_id')} OR {_CLIENT_GONE.format(column='destination_client_id')})"
)
ENDED = "(sent >= message_limit AND paused_limit IS NULL)"
"""Nothing of a broadcast will ever be sent any more; a limit of 0 is that of a disabled one."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of SQL with its parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()

    def __and__(self, other: Condition) -> Condition:
        return Condition(f"{self.sql} AND {other.sql}", self.parameters + other.parameters)


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be deleted."""

    keys: Sequence[Any]
    """Of the rows, in the order of the walk; for resource usage (client id, before ns, rows)."""
    position: str | None
    """Where to go on behind them; None: there is nothing behind them."""


def look(db: Connection, request: Prune, timing: Timing) -> Found:
    """The first rows behind a position that are old enough."""
    if request.kind is Prunable.RESOURCE_USAGE:
        return _look_for_usage(db, request)
    due = due_condition(request.kind, request.before_ns, timing.now_ns())
    if request.kind is Prunable.CLIENTS:
        return _walk(db, "clients", "client_id", ("client_id",), due, request, min(request.rows, MAX_ROWS))
    if request.kind is Prunable.BROADCASTS:
        return _walk(db, "broadcasts", "broadcast_id", ("broadcast_id",), due, request, request.rows)
    if request.kind is Prunable.CONTACTS:
        table, key, within = "client_contacts", "client_contact_id", due
        order = key
    else:
        table, key, within = "messages", "message_id", _created(request, timing)
        order = db.dialect.row_number or key
    if timeindexes.is_there(db, table):
        by_time = (*timeindexes.columns_of(table), order)
        return _walk(db, table, key, by_time, due, request, request.rows, within)
    return _walk(db, table, key, (order,), due, request, request.rows)


def due_condition(kind: Prunable, before_ns: int, now_ns: int) -> Condition:
    """What a row must be like to be deleted."""
    before = before_ns // 10**9
    has_result = Condition(_HAS_RESULT, (before, now_ns // 10**9 + FUTURE, before))
    match kind:
        case Prunable.CONTACTS:
            return Condition("time < ?", (before_ns,))
        case Prunable.MESSAGES:
            return has_result
        case Prunable.MESSAGES_OF_CLIENTS:
            return has_result & Condition(_OF_NO_CLIENT)
        case Prunable.PENDING_MESSAGES:
            return Condition("processed_time_seconds IS NULL AND creation_time_seconds < ?", (before,))
        case Prunable.BROADCASTS:
            return Condition(f"(expiration_time_seconds < ? OR ended_time < ? AND {ENDED})", (before, before_ns))
        case Prunable.CLIENTS:
            return Condition("last_contact_time < ? AND NOT blacklisted", (before_ns,))
        case Prunable.RESOURCE_USAGE:
            return Condition("server_timestamp < ?", (before_ns,))
        case Prunable.AUDIT:
            return Condition("time < ?", (before_ns,))


def _created(request: Prune, timing: Timing) -> Condition:
    """As much of a message's condition as an index by its creation answers."""
    before = request.before_ns // 10**9
    if request.kind is Prunable.PENDING_MESSAGES:
        return Condition("creation_time_seconds < ?", (before,))
    future = timing.now_ns() // 10**9 + FUTURE
    return Condition("(creation_time_seconds < ? OR creation_time_seconds > ?)", (before, future))


def _walk(
    db: Connection,
    table: str,
    key: str,
    columns: tuple[str, ...],
    due: Condition,
    request: Prune,
    rows: int,
    within: Condition | None = None,
) -> Found:
    """The first `rows` keys that are due, among the next rows in the order of `columns`."""
    part = _behind(columns, _read(request.position, columns))
    if within is not None:
        part &= within
    order = ", ".join(columns)
    last = db.rows(
        f"SELECT {order} FROM {table} WHERE {part.sql} ORDER BY {order} LIMIT 1 OFFSET ?",
        (*part.parameters, request.rows * LOOKED_AT - 1),
    )
    if last:
        part &= _up_to(columns, last[0])
    wanted = part & due
    found = db.rows(
        f"SELECT {key}, {order} FROM {table} WHERE {wanted.sql} ORDER BY {order} LIMIT ?", (*wanted.parameters, rows)
    )
    keys = [row[0] for row in found]
    if len(found) == rows:
        return Found(keys, _write(columns, found[-1][1:]))
    return Found(keys, _write(columns, last[0]) if last else None)


def _behind(columns: tuple[str, ...], values: Sequence[Any] | None) -> Condition:
    return Condition("1 = 1") if values is None else _compared(columns, values, ">", last=">")


def _up_to(columns: tuple[str, ...], values: Sequence[Any]) -> Condition:
    return _compared(columns, values, "<", last="<=")


def _compared(columns: tuple[str, ...], values: Sequence[Any], strictly: str, last: str) -> Condition:
    """Compares rows column by column, in a form that an index of all of them, or of the first one, answers.

    Databases understand ``(a, b) > (x, y)`` as well, but not all of them look it up.
    """
    if len(columns) == 1:
        return Condition(f"{columns[0]} {last} ?", (values[0],))
    rest = _compared(columns[1:], values[1:], strictly, last)
    sql = f"{columns[0]} {strictly}= ? AND ({columns[0]} {strictly} ? OR {rest.sql})"
    return Condition(sql, (values[0], values[0], *rest.parameters))


def _write(columns: Sequence[str], values: Sequence[Any]) -> str:
    """A position as a text: each column with a number, or with bytes in hexadecimal."""
    texts = (value.hex() if isinstance(value, bytes) else f"#{value}" for value in values)
    return " ".join(f"{column}={text}" for column, text in zip(columns, texts, strict=True))


def _read(position: str, columns: tuple[str, ...]) -> list[Any] | None:
    """The values of a position; None if it is none on a walk in this order."""
    parts = [part.partition("=") for part in position.split()]
    if tuple(column for column, _, _ in parts) != columns:
        return None
    try:
        return [int(text[1:]) if text.startswith("#") else bytes.fromhex(text) for _, _, text in parts]
    except ValueError:
        return None


# -- resource usage, which has no key


def _look_for_usage(db: Connection, request: Prune) -> Found:
    """The old records of the next clients; where one client has too many, the oldest of its own."""
    columns, before = ("client_id",), request.before_ns
    part = _behind(columns, _read(request.position, columns))
    last = db.rows(
        f"SELECT client_id FROM client_resource_usage_records WHERE {part.sql} ORDER BY client_id LIMIT 1 OFFSET ?",
        (*part.parameters, request.rows * LOOKED_AT - 1),
    )
    if last:
        part &= _up_to(columns, last[0])
    wanted = part & due_condition(request.kind, before, 0)
    counted = db.rows(
        f"SELECT client_id, COUNT(*) FROM client_resource_usage_records WHERE {wanted.sql}"
        " GROUP BY client_id ORDER BY client_id LIMIT ?",
        (*wanted.parameters, request.rows),
    )
    keys: list[tuple[bytes, int, int]] = []
    room = request.rows
    for client_id, count in counted:
        if count > room and keys and not request.dry_run:
            break
        if count > request.rows and not request.dry_run:
            cut = oldest_usage(db, client_id, before, request.rows)
            return Found([(client_id, cut, count)], request.position if cut < before else _write(columns, (client_id,)))
        keys.append((client_id, before, count))
        room -= count
    if len(keys) < len(counted) or len(counted) == request.rows:
        return Found(keys, _write(columns, keys[-1][:1]))
    return Found(keys, _write(columns, last[0]) if last else None)


def oldest_usage(db: Connection, client_id: bytes, before_ns: int, rows: int) -> int:
    """The time before which a client has only so many records, and those of equal time with the last of them."""
    found = db.rows(
        "SELECT server_timestamp FROM client_resource_usage_records WHERE client_id = ? AND server_timestamp < ?"
        " ORDER BY server_timestamp LIMIT 1 OFFSET ?",
        (client_id, before_ns, rows - 1),
    )
    return int(found[0][0]) + 1 if found else before_ns
