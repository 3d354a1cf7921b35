"""The hot write: all that a contact, or a record of a stream, writes and takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleetspeak.pb import common
from fleetspeak.records import AuditCall, Claim, ClientData, Contact, Exchange, Exchanged
from fleetspeak.store.checks import check_exchange, contact_id_of, contact_row
from fleetspeak.store.sql import audit, claims, clients, contacts, messages
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.rows import MessageRows, rows_of
from fleetspeak.store.timing import Timing


@dataclass(frozen=True, slots=True)
class Prepared:
    """An `Exchange`, or a call of store_messages, that was checked and made ready to be written."""

    rows: MessageRows
    contact: Contact | None = None
    contact_row: int | None = None
    new_client: ClientData | None = None
    claim: Claim | None = None
    audit: AuditCall | None = None

    @property
    def size(self) -> int:
        """About how many bytes this is for the database."""
        return self.rows.size if self.claim is None else self.rows.size + claims.CLAIM_BYTES


def prepare(exchange: Exchange) -> Prepared:
    """Check and convert.  Raises InvalidRecord."""
    check_exchange(exchange)
    return Prepared(
        rows_of(exchange.messages),
        exchange.contact,
        contact_row(exchange.contact_id),
        exchange.new_client,
        exchange.claim,
    )


def carry_out(db: Connection, exchanges: Sequence[Prepared], *, timing: Timing) -> list[Exchanged]:
    """Carry out exchanges, all of one step before all of the next."""
    now_ns = timing.now_ns()
    clients.enrol(
        db,
        [(one.contact.client_id, one.new_client) for one in exchanges if one.contact and one.new_client],
        now_ns,
    )
    rows = _contact_rows(db, exchanges, now_ns)
    gathered = MessageRows()
    for one in exchanges:
        gathered.extend(one.rows)
    messages.store(db, gathered, timing, now_ns)
    taken = _claim(db, exchanges, timing, now_ns)
    contacts.link(
        db,
        (
            (row, [*one.rows.message_ids, *(message.message_id for message in of_one)])
            for row, one, of_one in zip(rows, exchanges, taken, strict=True)
            if row is not None
        ),
    )
    return [
        Exchanged("" if row is None else contact_id_of(row), of_one) for row, of_one in zip(rows, taken, strict=True)
    ]


def _contact_rows(db: Connection, exchanges: Sequence[Prepared], now_ns: int) -> list[int | None]:
    recorded = iter(contacts.record(db, [one.contact for one in exchanges if one.contact], now_ns))
    return [next(recorded) if one.contact else one.contact_row for one in exchanges]


def _claim(
    db: Connection, exchanges: Sequence[Prepared], timing: Timing, now_ns: int
) -> list[Sequence[common.Message]]:
    taken = iter(claims.claim(db, [one.claim for one in exchanges if one.claim], timing, now_ns))
    return [next(taken) if one.claim else () for one in exchanges]


def store_messages(db: Connection, calls: Sequence[Prepared], *, timing: Timing) -> list[None]:
    """Carry out calls of store_messages: exchanges of messages only, and their entries in the audit trail."""
    carry_out(db, calls, timing=timing)
    audited = [one.audit for one in calls if one.audit is not None]
    if audited:
        audit.begin(db, audited, timing=timing, outcome="OK")
    return [None] * len(calls)
