"""The audit trail of the admin API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fleetspeak.errors import StoreError
from fleetspeak.records import AuditCall, AuditEnd, AuditEntry, AuditFilter
from fleetspeak.store.sql.dialect import Connection, Row
from fleetspeak.store.sql.statements import insert_numbered, run_in, update_joined
from fleetspeak.store.timing import Timing

_CALL_COLUMNS = ("caller", "address", "role", "method", "request")
_END_COLUMNS = ("outcome", "detail", "duration")
_COLUMNS = ("time", *_CALL_COLUMNS, *_END_COLUMNS)


def begin(db: Connection, calls: Sequence[AuditCall], *, timing: Timing, outcome: str = "") -> list[int]:
    """Write entries of calls, whose texts were cut.  Returns their numbers.

    @param outcome: of all of them, if it is known because it is that of this transaction.
    """
    now_ns = timing.now_ns()
    flat: list[Any] = []
    for call in calls:
        flat += (now_ns, call.caller, call.address, call.role, call.method, call.request, outcome, "", 0)
    return insert_numbered(db, "fleetspeak_audit", "number", _COLUMNS, flat)


def end(db: Connection, ends: Sequence[AuditEnd]) -> list[StoreError | None]:
    """Note how calls ended, with their texts cut."""
    flat: list[Any] = []
    for one in sorted(ends, key=lambda end: end.number):  # in one order, so that servers do not wait for each other
        flat += (one.number, one.outcome, one.detail, one.duration_ns)
    update_joined(
        db,
        "fleetspeak_audit",
        _END_COLUMNS,
        ("number", *_END_COLUMNS),
        flat,
        "fleetspeak_audit.number = given.number",
    )
    return [None] * len(ends)


def page(db: Connection, wanted: AuditFilter, limit: int) -> list[AuditEntry]:
    """The first entries, by number, that fit."""
    conditions = list(_conditions(wanted))
    rows = db.rows(
        f"SELECT number, {', '.join(_COLUMNS)} FROM fleetspeak_audit"
        f" WHERE {' AND '.join(condition for condition, _ in conditions)}"
        f" ORDER BY number {'DESC' if wanted.newest_first else 'ASC'} LIMIT ?",
        [*(value for _, value in conditions), limit],
    )
    return [_entry(row) for row in rows]


def _conditions(wanted: AuditFilter) -> Iterator[tuple[str, Any]]:
    yield "number > ?", wanted.after
    if wanted.before is not None:
        yield "number < ?", wanted.before
    if wanted.start_ns is not None:
        yield "time >= ?", wanted.start_ns
    if wanted.end_ns is not None:
        yield "time < ?", wanted.end_ns
    if wanted.caller:
        yield "caller = ?", wanted.caller
    if wanted.method:
        yield "method = ?", wanted.method


def _entry(row: Row) -> AuditEntry:
    number, time_ns, caller, address, role, method, request, outcome, detail, duration_ns = row
    return AuditEntry(number, time_ns, AuditCall(caller, address, role, method, request), outcome, detail, duration_ns)


def count_old(db: Connection, before_ns: int) -> int:
    """How many entries were written before then."""
    [(count,)] = db.rows("SELECT COUNT(*) FROM fleetspeak_audit WHERE time < ?", (before_ns,))
    return int(count)


def prune(db: Connection, before_ns: int, limit: int) -> int:
    """Delete the oldest entries that were written before then.  Returns how many."""
    rows = db.rows(
        "SELECT number FROM fleetspeak_audit WHERE time < ? ORDER BY time, number LIMIT ?", (before_ns, limit)
    )
    if rows:
        run_in(db, "DELETE FROM fleetspeak_audit WHERE number IN ({keys})", (), [number for (number,) in rows])
    return len(rows)
