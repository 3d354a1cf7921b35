"""Deletes what a look has found to be old enough, if it still is: children first, and no more than there is room for.

Foreign keys that cascade would do most of it by themselves, but one row may have a million children, and older tables
have foreign keys that do not cascade.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from fleetspeak.records import Prunable, Prune
from fleetspeak.store.sql.dialect import Connection, Row
from fleetspeak.store.sql.pruning import ENDED, Found, due_condition, oldest_usage
from fleetspeak.store.sql.statements import marks, rows_in, run_in
from fleetspeak.store.timing import Timing


class Removal:
    """One removal: how much room is left, and what was deleted."""

    def __init__(self, db: Connection, room: int) -> None:
        self.db = db
        self.room = room
        self.rows: Counter[str] = Counter()

    def delete(self, table: str, where: str, before: Sequence[Any], keys: Sequence[Any]) -> None:
        """Delete the rows of a table for `keys`, as `run_in` takes them."""
        count = run_in(self.db, f"DELETE FROM {table} WHERE {where}", before, keys)
        if count:
            self.rows[table] += count
            self.room -= count

    # -- each gives whether all was deleted

    def messages(self, message_ids: Sequence[bytes]) -> bool:
        """Messages, with what hangs on them."""
        if self.db.dialect.links_refer_to_messages:
            self.delete("client_contact_messages", "message_id IN ({keys})", (), message_ids)
        self.delete("pending_messages", "message_id IN ({keys})", (), message_ids)
        self.delete("messages", "message_id IN ({keys})", (), message_ids)
        return True

    def contacts(self, rows: Sequence[int]) -> bool:
        """Contacts with their links."""
        fitting, first_is_too_large = self._fitting("client_contact_messages", "client_contact_id", rows)
        if first_is_too_large:
            self._some_links(rows[0])
            return False
        self.delete("client_contact_messages", "client_contact_id IN ({keys})", (), fitting)
        self.delete("client_contacts", "client_contact_id IN ({keys})", (), fitting)
        return len(fitting) == len(rows)

    def usage(self, keys: Sequence[tuple[bytes, int, int]]) -> bool:
        """Resource usage records of clients, from before times."""
        times: dict[int, list[bytes]] = {}
        for client_id, before_ns, _ in keys:
            times.setdefault(before_ns, []).append(client_id)
        for before_ns, client_ids in times.items():
            where = "server_timestamp < ? AND client_id IN ({keys})"
            self.delete("client_resource_usage_records", where, (before_ns,), client_ids)
        return True

    def broadcasts(self, broadcast_ids: Sequence[bytes]) -> bool:
        """Broadcasts, with what hangs on them."""
        for broadcast_id in broadcast_ids:
            sent = self._some("broadcast_sent", "client_id", "broadcast_id", [broadcast_id])
            where = "broadcast_id = ? AND client_id IN ({keys})"
            self.delete("broadcast_sent", where, (broadcast_id,), [client_id for (client_id,) in sent])
            if self.room <= 0:
                return False
            for table in ("broadcast_allocations", "broadcast_labels", "broadcasts"):
                self.delete(table, "broadcast_id IN ({keys})", (), [broadcast_id])
        return True

    def clients(self, client_ids: Sequence[bytes]) -> bool:
        """Clients, with all that hangs on them."""
        contacts = [row for (row,) in self._some("client_contacts", "client_contact_id", "client_id", client_ids)]
        if not self.contacts(contacts) or self.room <= 0:
            return False
        fitting, first_is_too_large = self._fitting("client_resource_usage_records", "client_id", client_ids)
        if first_is_too_large:
            cut = oldest_usage(self.db, client_ids[0], 2**63 - 1, self.room)
            self.usage([(client_ids[0], cut, 0)])
            return False
        self.delete("client_resource_usage_records", "client_id IN ({keys})", (), fitting)
        gone, first_is_too_large = self._fitting("broadcast_sent", "client_id", fitting)
        if first_is_too_large:
            gone = fitting[:1]  # it was sent some broadcasts, never very many
        for table in ("broadcast_sent", "client_labels", "clients"):
            self.delete(table, "client_id IN ({keys})", (), gone)
        return len(gone) == len(client_ids)

    # -- what there is room for

    def _some(self, table: str, column: str, key: str, keys: Sequence[Any]) -> list[Row]:
        """A column of as many children as there is room for."""
        if not keys:
            return []
        sql = f"SELECT {column} FROM {table} WHERE {key} IN ({marks(len(keys))}) LIMIT ?"
        return self.db.rows(sql, (*keys, max(0, self.room)))

    def _fitting(self, table: str, key: str, keys: Sequence[Any]) -> tuple[Sequence[Any], bool]:
        """The first of `keys` whose children there is room for, and whether it is the first one that is too large."""
        sql = f"SELECT {key}, COUNT(*) FROM {table} WHERE {key} IN ({{keys}}) GROUP BY {key}"
        children: dict[Any, int] = dict(rows_in(self.db, sql, (), keys))
        total = 0
        for number, one in enumerate(keys):
            total += children.get(one, 0)
            if total > self.room:
                return keys[:number], number == 0
        return keys, False

    def _some_links(self, row: int) -> None:
        links = self._some("client_contact_messages", "message_id", "client_contact_id", [row])
        where = "client_contact_id = ? AND message_id IN ({keys})"
        self.delete("client_contact_messages", where, (row,), [message_id for (message_id,) in links])


def remove(db: Connection, request: Prune, found: Found, timing: Timing) -> tuple[dict[str, int], bool]:
    """Delete.  Returns the rows by table, and whether all that was found is gone, or not old any more."""
    removal = Removal(db, request.rows)
    keys = _still_due(db, request, found.keys, timing)
    finished = not keys or _of_kind(removal, request.kind)(keys)
    return dict(removal.rows), finished


def _of_kind(removal: Removal, kind: Prunable) -> Callable[[Sequence[Any]], bool]:
    match kind:
        case Prunable.CONTACTS:
            return removal.contacts
        case Prunable.RESOURCE_USAGE:
            return removal.usage
        case Prunable.BROADCASTS:
            return removal.broadcasts
        case Prunable.CLIENTS:
            return removal.clients
        case _:
            return removal.messages


_LOCKED = {
    Prunable.MESSAGES: ("messages", "message_id"),
    Prunable.MESSAGES_OF_CLIENTS: ("messages", "message_id"),
    Prunable.PENDING_MESSAGES: ("messages", "message_id"),
    Prunable.BROADCASTS: ("broadcasts", "broadcast_id"),
    Prunable.CLIENTS: ("clients", "client_id"),
}
"""Contacts and resource usage never change."""


def _still_due(db: Connection, request: Prune, keys: Sequence[Any], timing: Timing) -> Sequence[Any]:
    """Lock what is still old enough, and not locked by others."""
    if request.kind not in _LOCKED:
        return keys
    table, key = _LOCKED[request.kind]
    due = due_condition(request.kind, request.before_ns, timing.now_ns())
    sql = f"SELECT {key} FROM {table} WHERE {due.sql} AND {key} IN ({{keys}}){db.dialect.lock}"
    return sorted(chain.from_iterable(rows_in(db, sql, due.parameters, sorted(keys))))


def note_ended(db: Connection, timing: Timing) -> None:
    """Remember when a broadcast was first seen to have ended, which no server writes down."""
    db.run(f"UPDATE broadcasts SET ended_time = ? WHERE ended_time IS NULL AND {ENDED}", (timing.now_ns(),))
    db.run(f"UPDATE broadcasts SET ended_time = NULL WHERE ended_time IS NOT NULL AND NOT {ENDED}")


def count(db: Connection, request: Prune, found: Found) -> dict[str, int]:
    """What `remove` would delete for all that was found."""
    match request.kind:
        case Prunable.RESOURCE_USAGE:
            counts = {"client_resource_usage_records": sum(rows for _, _, rows in found.keys)}
        case Prunable.CONTACTS:
            counts = {"client_contacts": len(found.keys)} | _children(
                db, "client_contact_id", found.keys, "client_contact_messages"
            )
        case Prunable.BROADCASTS:
            counts = {"broadcasts": len(found.keys)} | _children(
                db, "broadcast_id", found.keys, "broadcast_sent", "broadcast_allocations", "broadcast_labels"
            )
        case Prunable.CLIENTS:
            counts = {"clients": len(found.keys)} | _children(
                db,
                "client_id",
                found.keys,
                "client_contacts",
                "client_resource_usage_records",
                "broadcast_sent",
                "client_labels",
            )
        case _:
            counts = {"messages": len(found.keys)} | _children(db, "message_id", found.keys, "pending_messages")
    return {table: rows for table, rows in counts.items() if rows}


def _children(db: Connection, key: str, keys: Sequence[Any], *tables: str) -> dict[str, int]:
    return {
        table: sum(rows for (rows,) in rows_in(db, f"SELECT COUNT(*) FROM {table} WHERE {key} IN ({{keys}})", (), keys))
        for table in tables
    }
