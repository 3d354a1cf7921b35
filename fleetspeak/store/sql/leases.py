"""Leases: who is the only one, of all servers of a database, to do something."""

from __future__ import annotations

from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.statements import insert
from fleetspeak.store.timing import Timing

_COLUMNS = ("name", "holder", "until_ns", "state")


def take(db: Connection, name: str, holder: bytes, until_ns: int, state: str | None, *, timing: Timing) -> str | None:
    """Take, keep or end a lease.  Returns its state; None: another one has it."""
    insert(db, "fleetspeak_leases", _COLUMNS, [name, holder, 0, ""], ignore=True)
    [(of, until, kept)] = db.rows(
        "SELECT holder, until_ns, state FROM fleetspeak_leases WHERE name = ?" + db.dialect.for_update, (name,)
    )
    if of != holder and until > timing.now_ns():
        return None
    state = kept if state is None else state
    db.run(
        "UPDATE fleetspeak_leases SET holder = ?, until_ns = ?, state = ? WHERE name = ?",
        (holder, until_ns, state, name),
    )
    return state
