"""Messages for server services whose time has come: handed out, put off, given up, and taken up again.

A dead letter has a failed result like any message that failed, and keeps its row in ``pending_messages`` with its
payload, due at `NEVER_DUE`.  So it is not pending, no server of any kind takes it, and whatever deletes the message,
or gives it another result, removes the payload as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fleetspeak.core.retrytimes import given_up
from fleetspeak.ids import NO_CLIENT, MessageId
from fleetspeak.pb import common
from fleetspeak.records import Claim, RetryLimits
from fleetspeak.store.allotment import Allotment
from fleetspeak.store.checks import age
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.messages import get, read_pending
from fleetspeak.store.sql.rows import RESULT_COLUMNS
from fleetspeak.store.sql.statements import marks, rows_in, run_in, update_joined
from fleetspeak.store.timing import NEVER_DUE, Timing


class Due(NamedTuple):
    """A message that is due: a row of a look."""

    message_id: bytes
    retries: int
    size: int | None
    service: str
    created_seconds: int
    created_nanos: int

    @property
    def created_ns(self) -> int:
        """When it was created."""
        return self.created_seconds * 10**9 + self.created_nanos


_COLUMNS = (
    "p.message_id, p.retry_count, LENGTH(p.data_value), m.destination_service_name,"
    " m.creation_time_seconds, m.creation_time_nanos"
)


def look_around(db: Connection, limit: int, full: Sequence[str], since_ns: int, *, timing: Timing) -> list[bytes]:
    """The ids of the messages that are longest overdue, without those for the services that are `full`.

    @param since_ns: messages that became due before are left out.

    Nothing is locked: what is passed over may be much, and looking may take long.
    """
    rows = db.rows(
        f"SELECT p.message_id FROM pending_messages AS p {db.dialect.in_order} messages AS m"
        " ON m.message_id = p.message_id WHERE p.for_server = 1 AND p.scheduled_time >= ? AND p.scheduled_time <= ?"
        f" AND {db.dialect.exact('m.destination_service_name')} NOT IN ({marks(len(full))})"
        " ORDER BY p.scheduled_time LIMIT ?",
        (since_ns // 1000, timing.now_ns() // 1000, *full, limit),
    )
    return [message_id for (message_id,) in rows]


def overdue(
    db: Connection,
    limit: int,
    room: Mapping[str, int],
    limits: RetryLimits,
    *,
    timing: Timing,
    among: Sequence[bytes] | None = None,
) -> list[common.Message]:
    """Claim messages for server services, the longest overdue first, and put them off; see `IStore`.

    @param among: what `look_around` has found; by default it is looked for here, and no service may be without room.
    """
    now_ns = timing.now_ns()
    allotment, left = Allotment(Claim(NO_CLIENT, limit)), dict(room)
    taken: list[Due] = []
    dead: list[tuple[Due, str]] = []
    for due in _longest_overdue(db, limit, now_ns // 1000) if among is None else _still_due(db, among, now_ns // 1000):
        reason = given_up(now_ns, due.created_ns, due.retries, limits)
        if reason is not None:
            dead.append((due, reason))
        elif left.get(due.service, 1) > 0 and allotment.take("", due.size or 0):
            if due.service in left:
                left[due.service] -= 1
            taken.append(due)
    messages = read_pending(db, [due.message_id for due in taken])
    _put_off(db, taken, limits, timing, now_ns)
    return sorted([*messages.values(), *_bury(db, dead, now_ns)], key=age)


def _longest_overdue(db: Connection, limit: int, now_us: int) -> list[Due]:
    rows = db.rows(
        f"SELECT {_COLUMNS} FROM pending_messages AS p {db.dialect.in_order} messages AS m"
        " ON m.message_id = p.message_id WHERE p.for_server = 1 AND p.scheduled_time <= ?"
        " ORDER BY p.scheduled_time LIMIT ?" + db.dialect.lock,
        (now_us, limit),
    )
    return [Due(*row) for row in rows]


def _still_due(db: Connection, message_ids: Sequence[bytes], now_us: int) -> list[Due]:
    """Those of the messages that nobody has taken meanwhile."""
    rows = rows_in(
        db,
        f"SELECT {_COLUMNS} FROM pending_messages AS p {db.dialect.in_order} messages AS m"
        " ON m.message_id = p.message_id WHERE p.for_server = 1 AND p.scheduled_time <= ?"
        " AND p.message_id IN ({keys})" + db.dialect.lock,
        (now_us,),
        message_ids,
    )
    found = {row[0]: Due(*row) for row in rows}
    return [found[message_id] for message_id in message_ids if message_id in found]


def _put_off(db: Connection, taken: Sequence[Due], limits: RetryLimits, timing: Timing, now_ns: int) -> None:
    flat: list[Any] = []
    for due in taken:
        retries = due.retries + 1
        flat += (due.message_id, retries, timing.server_due(now_ns, due.created_ns, retries, limits))
    update_joined(
        db,
        "pending_messages",
        ("retry_count", "scheduled_time"),
        ("message_id", "retry_count", "scheduled_time"),
        flat,
        "pending_messages.message_id = given.message_id",
    )


def _bury(db: Connection, dead: Sequence[tuple[Due, str]], now_ns: int) -> list[common.Message]:
    """Make dead letters of these; they come back as they are then, without payload."""
    if not dead:
        return []
    flat: list[Any] = []
    for due, reason in dead:
        flat += (due.message_id, *divmod(now_ns, 10**9), 1, reason)
    message_ids = [MessageId(due.message_id) for due, _ in dead]
    update_joined(
        db,
        "messages",
        RESULT_COLUMNS,
        ("message_id", *RESULT_COLUMNS),
        flat,
        "messages.message_id = given.message_id",
    )
    run_in(
        db,
        "UPDATE pending_messages SET scheduled_time = ? WHERE for_server = 1 AND message_id IN ({keys})",
        (NEVER_DUE,),
        message_ids,
    )
    return get(db, message_ids, want_data=False)


def retry(db: Connection, message_ids: Sequence[bytes], *, timing: Timing) -> int:
    """Make these dead letters pending messages again, due at once.  Returns how many they were."""
    found = rows_in(
        db,
        "SELECT message_id FROM pending_messages WHERE for_server = 1 AND scheduled_time = ? AND message_id IN ({keys})"
        + db.dialect.for_update,
        (NEVER_DUE,),
        message_ids,
    )
    dead = sorted({message_id for (message_id,) in found})
    run_in(
        db,
        f"UPDATE messages SET {', '.join(f'{column} = NULL' for column in RESULT_COLUMNS)}"
        " WHERE message_id IN ({keys})",
        (),
        dead,
    )
    run_in(
        db,
        "UPDATE pending_messages SET retry_count = 0, scheduled_time = ? WHERE for_server = 1"
        " AND message_id IN ({keys})",
        (timing.now_ns() // 1000,),
        dead,
    )
    return len(dead)


def dead_counts(db: Connection) -> dict[str, int]:
    """How many dead letters each service has."""
    counts: dict[str, int] = {}
    for service, count in db.rows(
        f"SELECT m.destination_service_name, COUNT(*) FROM pending_messages AS p {db.dialect.in_order} messages AS m"
        " ON m.message_id = p.message_id WHERE p.for_server = 1 AND p.scheduled_time = ?"
        f" GROUP BY m.destination_service_name, {db.dialect.exact('m.destination_service_name')}",
        (NEVER_DUE,),
    ):
        counts[service] = counts.get(service, 0) + count
    return counts
