"""Claims: due messages are taken for a client, oldest first, and put off until it is time to send them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.records import Claim
from fleetspeak.store.allotment import Allotment
from fleetspeak.store.sql.dialect import Connection, Row
from fleetspeak.store.sql.messages import mark_processed
from fleetspeak.store.sql.rows import SELECTED_WITH_DATA, message_of
from fleetspeak.store.sql.statements import marks, run_in
from fleetspeak.store.timing import Timing

MAX_LOOKS = 32
"""Most clients that one statement looks for."""

_MESSAGE_ID, _SERVICE, _TYPE, _SECONDS, _NANOS = 0, 5, 6, 7, 8
"""Places of columns in a row of `SELECTED_WITH_DATA`; the payload is the last one."""

# CROSS JOIN: in this order.  The index of what is pending for a client gives the order, so the LIMIT ends the scan.
_LOOK = f"""
    SELECT * FROM (
        SELECT {SELECTED_WITH_DATA}
        FROM messages AS m CROSS JOIN pending_messages AS p ON p.message_id = m.message_id
        WHERE m.destination_client_id = ? AND m.processed_time_seconds IS NULL AND p.scheduled_time <= ?{{more}}
        ORDER BY m.creation_time_seconds, m.creation_time_nanos, m.message_id LIMIT ?
    ) AS due"""


def client_messages_for_processing(
    db: Connection, claims: Sequence[Claim], *, timing: Timing
) -> list[list[common.Message]]:
    """Carry out claims."""
    now_ns = timing.now_ns()
    return [[message_of(row) for row in rows] for rows in claim(db, claims, timing, now_ns)]


def claim(db: Connection, claims: Sequence[Claim], timing: Timing, now_ns: int) -> list[list[Row]]:
    """Take what is due.  Returns rows of `SELECTED_WITH_DATA` for each claim.

    Claims of one client are carried out one after the other, since what one took is not due for the next.
    """
    taken: list[list[Row]] = [[] for _ in claims]
    for turn in _turns(claims):
        rows_by_client = _due(db, [claims[index] for index in turn], now_ns // 1000)
        for index in turn:
            first = rows_by_client.get(claims[index].client_id)
            if first:
                taken[index] = _allot(db, claims[index], first, now_ns // 1000)
        _put_off(db, [row for index in turn for row in taken[index]], timing, now_ns)
    return taken


def _turns(claims: Sequence[Claim]) -> list[list[int]]:
    """Indices of claims, gathered so that no client comes twice in one turn."""
    turns: list[list[int]] = []
    seen: dict[ClientId, int] = {}
    for index, wanted in enumerate(claims):
        if wanted.limit <= 0 or (wanted.tokens is not None and not any(wanted.tokens.values())):
            continue
        turn = seen[wanted.client_id] = seen.get(wanted.client_id, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    return turns


def _due(db: Connection, claims: Sequence[Claim], now_us: int) -> dict[bytes, list[Row]]:
    """The oldest due messages of each client, as many as its claim asks for."""
    found: dict[bytes, list[Row]] = {}
    for start in range(0, len(claims), MAX_LOOKS):
        part = claims[start : start + MAX_LOOKS]
        parameters: list[bytes | int] = []
        for wanted in part:
            parameters += (wanted.client_id, now_us, wanted.limit)
        looks = 1 << (len(part) - 1).bit_length()
        parameters += (b"", now_us, 0) * (looks - len(part))
        for row in db.rows(_looks(looks) + db.dialect.skip_locked, parameters):
            found.setdefault(row[4], []).append(row)
    return found


@cache
def _looks(count: int) -> str:
    return "\nUNION ALL".join([_LOOK.format(more="")] * count)


def _allot(db: Connection, wanted: Claim, first: list[Row], now_us: int) -> list[Row]:
    """Of the oldest due messages, those the claim has tokens and room for."""
    allotment = Allotment(wanted)
    taken: list[Row] = []
    page = first
    while True:
        taken += (row for row in page if allotment.take(row[_SERVICE], len(row[-1] or b"")))
        if len(page) < wanted.limit or not allotment.wants_more:
            return taken
        # A full page of which some were passed over: others may be behind it.
        page = _behind(db, wanted, page[-1], sorted(allotment.refused), now_us)


def _behind(db: Connection, wanted: Claim, last: Row, without: list[str], now_us: int) -> list[Row]:
    """The next due messages behind `last`, without those for services that get none any more."""
    more = (
        " AND (m.creation_time_seconds, m.creation_time_nanos, m.message_id) > (?, ?, ?)"
        f" AND m.destination_service_name NOT IN ({marks(len(without))})"
    )
    parameters = (
        wanted.client_id,
        now_us,
        last[_SECONDS],
        last[_NANOS],
        last[_MESSAGE_ID],
        *without,
        wanted.limit,
    )
    return db.rows(_LOOK.format(more=more) + db.dialect.skip_locked, parameters)


def _put_off(db: Connection, rows: list[Row], timing: Timing, now_ns: int) -> None:
    if not rows:
        return
    dying = [row[_MESSAGE_ID] for row in rows if _is_die(row)]
    run_in(
        db,
        "UPDATE pending_messages SET retry_count = retry_count + 1, scheduled_time = ? WHERE message_id IN ({keys})",
        (timing.client_due(now_ns),),
        [row[_MESSAGE_ID] for row in rows],
    )
    mark_processed(db, dying, now_ns)


def _is_die(row: Row) -> bool:
    """A client that is told to die cannot confirm it."""
    return (row[_TYPE], row[_SERVICE]) == ("Die", "system")


def message_ids(rows: Sequence[Row]) -> Iterator[bytes]:
    """The ids in rows that `claim` gave."""
    return (row[_MESSAGE_ID] for row in rows)
