"""Pages of clients, contacts, broadcasts and files, each behind a key; nothing is ever counted off.

These queries may have to look at much to find little: they run on a connection that ends a statement which takes too
long.
"""

from __future__ import annotations

from typing import Any

from fleetspeak.ids import ClientId
from fleetspeak.listings import (
    BroadcastState,
    ClientCounts,
    ClientFilter,
    Flag,
    ListedBroadcast,
    ListedFile,
    Span,
)
from fleetspeak.pb import admin
from fleetspeak.records import UNLIMITED, ContactEntry, FileStat
from fleetspeak.store.sql import broadcasts as _broadcasts
from fleetspeak.store.sql import clients as _clients
from fleetspeak.store.sql import contacts as _contacts
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.statements import rows_in
from fleetspeak.store.timing import Timing

Conditions = list[tuple[str, tuple[Any, ...]]]
"""What is to hold, with its parameters."""


def where(conditions: Conditions) -> tuple[str, list[Any]]:
    """All of them in one text, and all their parameters."""
    text = " AND ".join(condition for condition, _ in conditions)
    return (f" WHERE {text}" if text else ""), [value for _, values in conditions for value in values]


def within(column: str, span: Span) -> Conditions:
    """That a column of nanoseconds is in a span."""
    found: Conditions = []
    if span.start_ns is not None:
        found.append((f"{column} >= ?", (span.start_ns,)))
    if span.end_ns is not None:
        found.append((f"{column} < ?", (span.end_ns,)))
    return found


# -- clients

_HAS_LABEL = (
    "EXISTS (SELECT 1 FROM client_labels AS l WHERE l.client_id = clients.client_id"
    " AND l.service_name = ? AND l.label = ?)"
)


def clients(db: Connection, wanted: ClientFilter, after: ClientId, limit: int) -> list[admin.Client]:
    """Clients by ascending id, behind `after`."""
    conditions: Conditions = [("client_id > ?", (after,))]
    if wanted.blacklisted is not Flag.ANY:
        conditions.append(("blacklisted" if wanted.blacklisted is Flag.ONLY else "NOT blacklisted", ()))
    conditions += within("last_contact_time", wanted.last_contact)
    conditions += [(_HAS_LABEL, tuple(label)) for label in wanted.labels]
    text, parameters = where(conditions)
    found = db.rows(f"SELECT client_id FROM clients{text} ORDER BY client_id LIMIT ?", [*parameters, limit])
    if not found:
        return []
    return sorted(_clients.listing(db, [ClientId(row[0]) for row in found]), key=lambda client: client.client_id)


def counts(db: Connection, contact_since_ns: int) -> ClientCounts:
    """How many clients there are."""
    [(known, blacklisted, in_contact)] = db.rows(
        "SELECT COUNT(*), SUM(CASE WHEN blacklisted THEN 1 ELSE 0 END),"
        " SUM(CASE WHEN last_contact_time >= ? THEN 1 ELSE 0 END) FROM clients",
        (contact_since_ns,),
    )
    return ClientCounts(known, int(blacklisted or 0), int(in_contact or 0))


def contacts(db: Connection, client_id: ClientId, before: int | None, limit: int) -> list[ContactEntry]:
    """Contacts of a client by descending row, below row `before`."""
    conditions: Conditions = [("client_id = ?", (client_id,))]
    if before is not None:
        conditions.append(("client_contact_id < ?", (before,)))
    text, parameters = where(conditions)
    rows = db.rows(
        f"SELECT {_contacts.ENTRY} FROM client_contacts{text} ORDER BY client_contact_id DESC LIMIT ?",
        [*parameters, limit],
    )
    return [_contacts.entry_of(client_id, row) for row in rows]


# -- broadcasts

_ACCOUNT = (
    "broadcast_id, source_service_name, destination_service_name, message_type, expiration_time_seconds,"
    " expiration_time_nanos, group_name, sent, allocated, message_limit, paused_limit, max_errors"
)
_LIMIT = "COALESCE(paused_limit, message_limit)"
_NOT_COMPLETE = f"{_LIMIT} > 0 AND sent < {_LIMIT}"
_EXPIRED = (
    "expiration_time_seconds IS NOT NULL AND (expiration_time_seconds < ?"
    " OR (expiration_time_seconds = ? AND expiration_time_nanos <= ?))"
)


def broadcasts(
    db: Connection, state: BroadcastState, service: str, after: bytes, limit: int, *, timing: Timing
) -> list[ListedBroadcast]:
    """Broadcasts by ascending id, behind `after`.

    What servers have sent of their shares counts as sent, whatever the store has been told of it in the end, so the
    state is told of what was found; the query only leaves out what cannot be in it.
    """
    now_ns = timing.now_ns()
    found: list[ListedBroadcast] = []
    while len(found) < limit:
        page = _page_of_broadcasts(db, state, service, after, limit, now_ns)
        found += [one for one in page if state in (BroadcastState.ANY, one.state(now_ns))]
        if len(page) < limit:
            break
        after = page[-1].broadcast.broadcast_id
    return found[:limit]


def _page_of_broadcasts(
    db: Connection, state: BroadcastState, service: str, after: bytes, limit: int, now_ns: int
) -> list[ListedBroadcast]:
    conditions: Conditions = [("broadcast_id > ?", (after,)), *_may_be(state, now_ns)]
    if service:
        conditions.append((f"{db.dialect.exact('source_service_name')} = ?", (service,)))
    text, parameters = where(conditions)
    rows = db.rows(f"SELECT {_ACCOUNT} FROM broadcasts{text} ORDER BY broadcast_id LIMIT ?", [*parameters, limit])
    broadcast_ids = [row[0] for row in rows]
    shares = {
        broadcast_id: int(sent)
        for broadcast_id, sent in rows_in(
            db,
            "SELECT broadcast_id, SUM(sent) FROM broadcast_allocations WHERE broadcast_id IN ({keys})"
            " GROUP BY broadcast_id",
            (),
            broadcast_ids,
        )
    }
    errors = _broadcasts.errors(db, broadcast_ids)
    found = []
    for row in rows:
        sent, allocated, message_limit, paused_limit, max_errors = row[7:]
        underway = shares.get(row[0], 0)
        broadcast = _broadcasts.broadcast_of((*row[:6], None, None, 0, 0, 0, row[6]))
        found.append(
            ListedBroadcast(
                broadcast,
                min(message_limit if paused_limit is None else paused_limit, UNLIMITED),
                sent + underway,
                max(0, allocated - underway),
                paused_limit is not None,
                errors.get(row[0], 0),
                max_errors or 0,
            )
        )
    _broadcasts.add_labels(db, {one.broadcast.broadcast_id: one.broadcast for one in found})
    return found


def _may_be(state: BroadcastState, now_ns: int) -> Conditions:
    seconds, nanos = divmod(now_ns, 10**9)
    match state:
        case BroadcastState.ACTIVE:
            return [
                (_NOT_COMPLETE, ()),
                ("paused_limit IS NULL", ()),
                (f"NOT ({_EXPIRED})", (seconds, seconds, nanos)),
            ]
        case BroadcastState.PAUSED:
            return [("paused_limit IS NOT NULL", ())]
        case BroadcastState.EXPIRED:
            return [(_NOT_COMPLETE, ()), (_EXPIRED, (seconds, seconds, nanos))]
        case BroadcastState.DISABLED:
            return [(f"{_LIMIT} = 0", ())]
        case BroadcastState.STOPPED:
            return [(f"{_LIMIT} = 0", ()), ("max_errors IS NOT NULL", ())]
        case _:
            return []


# -- files


def files(db: Connection, service: str, after: tuple[str, str], limit: int) -> list[ListedFile]:
    """Files by service and name, behind `after`; of all services if `service` is empty."""
    conditions: Conditions = [("(service > ? OR (service = ? AND name > ?))", (after[0], *after))]
    if service:
        conditions.append(("service = ?", (service,)))
    text, parameters = where(conditions)
    rows = db.rows(
        f"SELECT service, name, modified_time_nanos, LENGTH(data) FROM files{text} ORDER BY service, name LIMIT ?",
        [*parameters, limit],
    )
    return [ListedFile(service, name, FileStat(modified_ns, size or 0)) for service, name, modified_ns, size in rows]
