"""Contacts, and which messages travelled in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fleetspeak import ids
from fleetspeak.errors import NotFound
from fleetspeak.ids import ClientId
from fleetspeak.records import Contact, ContactEntry
from fleetspeak.store.checks import clock_of, contact_id_of
from fleetspeak.store.sql.dialect import Connection, Row
from fleetspeak.store.sql.statements import insert, insert_numbered, rows_in, update_joined
from fleetspeak.store.timing import Timing

_COLUMNS = ("client_id", "time", "sent_nonce", "received_nonce", "address")
_LAST_COLUMNS = (
    "last_contact_time",
    "last_contact_address",
    "last_contact_streaming_to",
    "last_clock_seconds",
    "last_clock_nanos",
)
_LINK_COLUMNS = ("client_contact_id", "message_id")


def record_each(db: Connection, contacts: Sequence[Contact], *, timing: Timing) -> list[str]:
    """Record contacts.  Returns their contact ids."""
    return [contact_id_of(row) for row in record(db, contacts, timing.now_ns())]


def record(db: Connection, contacts: Sequence[Contact], now_ns: int) -> list[int]:
    """Record contacts, and with each client its last one.  Returns their rows.  Raises NotFound: unknown client."""
    if not contacts:
        return []
    _note_last(db, {contact.client_id: contact for contact in contacts}, now_ns)
    flat: list[Any] = []
    for contact in contacts:
        flat += (
            contact.client_id,
            now_ns,
            contact.sent_nonce.to_bytes(8, "little"),
            contact.received_nonce.to_bytes(8, "little"),
            contact.address,
        )
    return insert_numbered(db, "client_contacts", "client_contact_id", _COLUMNS, flat)


def _note_last(db: Connection, last: dict[ClientId, Contact], now_ns: int) -> None:
    flat: list[Any] = []
    for client_id, contact in sorted(last.items()):  # in one order, so that servers do not wait for each other
        clock = clock_of(contact)
        flat += (
            client_id,
            now_ns,
            contact.address,
            contact.streaming_to or None,
            None if clock is None else clock.seconds,
            None if clock is None else clock.nanos,
        )
    updated = update_joined(
        db, "clients", _LAST_COLUMNS, ("client_id", *_LAST_COLUMNS), flat, "clients.client_id = given.client_id"
    )
    if updated < len(last):
        known = {
            row[0] for row in rows_in(db, "SELECT client_id FROM clients WHERE client_id IN ({keys})", (), list(last))
        }
        for client_id in last:
            if client_id not in known:
                raise NotFound(f"there is no client {ids.show(client_id)}")


def link(db: Connection, links: Iterable[tuple[int, Iterable[bytes]]]) -> None:
    """Note which messages travelled in which contact.  Pairs that are known are passed over."""
    flat = [value for row, message_ids in links for message_id in message_ids for value in (row, message_id)]
    insert(db, "client_contact_messages", _LINK_COLUMNS, flat, ignore=True)


ENTRY = "client_contact_id, time, sent_nonce, received_nonce, address"
"""The columns that `entry_of` reads."""


def page(db: Connection, client_id: ClientId, after: int, limit: int) -> list[ContactEntry]:
    """Contacts of a client by ascending row, behind row `after`."""
    rows = db.rows(
        f"SELECT {ENTRY} FROM client_contacts"
        " WHERE client_id = ? AND client_contact_id > ? ORDER BY client_contact_id LIMIT ?",
        (client_id, after, limit),
    )
    return [entry_of(client_id, row) for row in rows]


def entry_of(client_id: ClientId, row: Row) -> ContactEntry:
    """The contact in a row of `ENTRY`."""
    number, time_ns, sent, received, address = row
    contact = Contact(client_id, int.from_bytes(sent, "little"), int.from_bytes(received, "little"), address or "")
    return ContactEntry(number, contact, time_ns)
