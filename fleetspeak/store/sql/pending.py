"""Pending messages: of clients, for listings and deletion; for server services, when the next one is due."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.messages import end_pending, get
from fleetspeak.store.sql.statements import rows_in, run_in
from fleetspeak.store.timing import NEVER_DUE, Timing

REMOVED = "Removed by admin action."

_OF_CLIENTS = "messages.processed_time_seconds IS NULL AND messages.destination_client_id IN ({keys})"


def listing(
    db: Connection, client_ids: Sequence[ClientId], offset: int, limit: int, want_data: bool
) -> list[common.Message]:
    """A part of the pending messages of these clients, by ascending message id; limit 0 means to the end."""
    found = sorted(
        chain.from_iterable(rows_in(db, "SELECT message_id FROM messages WHERE " + _OF_CLIENTS, (), client_ids))
    )
    return get(db, found[offset : offset + limit if limit else None], want_data)


def count(db: Connection, client_ids: Sequence[ClientId]) -> int:
    """How many messages are pending for these clients."""
    counts: list[tuple[Any, ...]] = rows_in(db, "SELECT COUNT(*) FROM messages WHERE " + _OF_CLIENTS, (), client_ids)
    return sum(number for (number,) in counts)


def clients_with_due(db: Connection, client_ids: Sequence[ClientId], *, timing: Timing) -> list[ClientId]:
    """Those of these clients for which messages are due."""
    # Most clients have nothing pending, and the index of those that have tells that by itself.
    sql = (
        f"SELECT DISTINCT messages.destination_client_id FROM messages {db.dialect.in_order} pending_messages AS p"
        " ON p.for_server = 0 AND p.message_id = messages.message_id WHERE p.scheduled_time <= ? AND " + _OF_CLIENTS
    )
    due = set(chain.from_iterable(rows_in(db, sql, (timing.now_ns() // 1000,), client_ids)))
    return [client_id for client_id in client_ids if client_id in due]


def delete(db: Connection, client_ids: Sequence[ClientId], *, timing: Timing) -> None:
    """Let all pending messages of these clients fail: those that are there now, not what others store meanwhile."""
    seconds, nanos = divmod(timing.now_ns(), 10**9)
    wanted = list(dict.fromkeys(client_ids))
    found = sorted(chain.from_iterable(rows_in(db, "SELECT message_id FROM messages WHERE " + _OF_CLIENTS, (), wanted)))
    run_in(
        db,
        "UPDATE messages SET processed_time_seconds = ?, processed_time_nanos = ?, failed = 1, failed_reason = ?"
        " WHERE processed_time_seconds IS NULL AND message_id IN ({keys})",
        (seconds, nanos, REMOVED),
        found,
    )
    end_pending(db, found)


def next_overdue(db: Connection) -> int | None:
    """When (ns) the next message for a server service is due."""
    rows = db.rows(
        f"SELECT p.scheduled_time FROM pending_messages AS p {db.dialect.in_order} messages AS m"
        " ON m.message_id = p.message_id WHERE p.for_server = 1 ORDER BY p.scheduled_time LIMIT 1"
    )
    return rows[0][0] * 1000 if rows and rows[0][0] != NEVER_DUE else None
