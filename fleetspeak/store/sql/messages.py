"""Messages: storing them, their results, reading them.

A message is pending exactly as long as its ``processed_time_seconds`` is NULL.  Then it has a row in
``pending_messages``, which is the only place its payload is in; otherwise it has one only if it is a dead letter (see
`fleetspeak.store.sql.overdue`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fleetspeak import ids
from fleetspeak.errors import NotFound, StoreError
from fleetspeak.ids import MessageId
from fleetspeak.pb import common
from fleetspeak.records import Ack
from fleetspeak.store.sql.dialect import Connection
from fleetspeak.store.sql.rows import (
    MESSAGE_COLUMNS,
    RESULT_COLUMNS,
    SELECTED,
    SELECTED_WITH_DATA,
    MessageRows,
    Result,
    message_of,
    result_of,
)
from fleetspeak.store.sql.statements import insert, rows_in, run_in, update_joined
from fleetspeak.store.timing import NEVER_DUE, Timing

_PENDING_COLUMNS = ("for_server", "message_id", "retry_count", "scheduled_time", "data_type_url", "data_value")
_GIVEN_RESULT = ("message_id", *RESULT_COLUMNS)


def store(db: Connection, rows: MessageRows, timing: Timing, now_ns: int) -> None:
    """Store new messages, and merge the results of those that are known already.

    The usual case, that all are new, is told by the count of inserted rows and needs nothing else.
    """
    if not rows.message_ids:
        return
    if db.dialect.source_message_id_size:
        rows.cut_source_message_ids(db.dialect.source_message_id_size)
    inserted = insert(db, "messages", MESSAGE_COLUMNS, rows.flat, ignore=True)
    payloads = rows.payloads
    if inserted < len(rows.message_ids):
        payloads = _merge_known(db, rows)
    flat: list[Any] = []
    for for_server, message_id, type_url, value in payloads:
        flat += (for_server, message_id, 0, timing.first_due(now_ns, for_server), type_url, value)
    insert(db, "pending_messages", _PENDING_COLUMNS, flat, ignore=True)


def _merge_known(db: Connection, rows: MessageRows) -> list[tuple[bool, bytes, str | None, bytes | None]]:
    """Merge results into messages of which some, nobody knows which, were there before.

    What is written here is right for a message that was inserted a moment ago as well.  Returns the payloads of
    the messages that are pending now; those that were before have their row already.
    """
    results = _fold(rows.results)
    flat: list[Any] = []
    for message_id, result in results.items():
        flat += (message_id, *result)
    update_joined(
        db,
        "messages",
        RESULT_COLUMNS,
        _GIVEN_RESULT,
        flat,
        # A success counts in any case, a failure only for a message that has no result.
        "messages.message_id = given.message_id AND (given.failed IS NULL OR messages.processed_time_seconds IS NULL)",
    )
    end_pending(db, [message_id for message_id, result in results.items() if result[2] is None])
    _end_pending_of_failed(db, [message_id for message_id, result in results.items() if result[2] is not None])
    waiting = {payload[1]: payload for payload in reversed(rows.payloads) if payload[1] not in results}
    processed = rows_in(
        db,
        "SELECT message_id FROM messages WHERE processed_time_seconds IS NOT NULL AND message_id IN ({keys})",
        (),
        list(waiting),
    )
    for (message_id,) in processed:
        waiting.pop(message_id, None)
    return list(waiting.values())


def _fold(results: Iterable[tuple[bytes, Result]]) -> dict[bytes, Result]:
    """The one result that stands for all those a message was given, in this order: the last success, or the first
    failure."""
    folded: dict[bytes, Result] = {}
    for message_id, result in results:
        succeeded = result[2] is None
        if succeeded or message_id not in folded:
            folded[message_id] = result
    return folded


def set_results(db: Connection, updates: Sequence[Sequence[tuple[bytes, Result]]]) -> list[None]:
    """Set results, whatever they were before.  For each call, pairs of message id and result; later ones count."""
    results = {message_id: result for call in updates for message_id, result in call}
    flat: list[Any] = []
    for message_id, result in results.items():
        flat += (message_id, *result)
    update_joined(db, "messages", RESULT_COLUMNS, _GIVEN_RESULT, flat, "messages.message_id = given.message_id")
    end_pending(db, list(results))
    return [None] * len(updates)


def acknowledge(db: Connection, acks: Sequence[Ack], *, timing: Timing) -> list[StoreError | None]:
    """Give the messages that clients confirm the result that they succeeded."""
    confirmed = dict.fromkeys((message_id, ack.client_id) for ack in acks for message_id in ack.message_ids)
    seconds, nanos = divmod(timing.now_ns(), 10**9)
    flat: list[Any] = []
    for message_id, client_id in confirmed:
        flat += (message_id, client_id, seconds, nanos)
    update_joined(
        db,
        "messages",
        ("processed_time_seconds", "processed_time_nanos"),
        ("message_id", "client_id", "processed_time_seconds", "processed_time_nanos"),
        flat,
        "messages.message_id = given.message_id"
        " AND messages.processed_time_seconds IS NULL"
        " AND messages.destination_client_id IS NOT NULL"
        " AND (messages.destination_client_id = given.client_id"
        " OR messages.message_type = 'RekeyRequest' AND messages.source_service_name = 'system')",
    )
    run_in(
        db,
        db.dialect.delete_joined(
            "pending_messages",
            "message_id",
            "messages",
            "messages.processed_time_seconds IS NOT NULL AND messages.message_id IN ({keys})",
        ),
        (),
        list(dict.fromkeys(message_id for message_id, _ in confirmed)),
    )
    return [None] * len(acks)


def results(db: Connection, calls: Sequence[Sequence[MessageId]]) -> list[dict[MessageId, common.MessageResult]]:
    """For each call, the results of those of its messages that have one."""
    wanted = list(dict.fromkeys(message_id for call in calls for message_id in call))
    found = {
        row[0]: row[1:]
        for row in rows_in(
            db,
            f"SELECT message_id, {', '.join(RESULT_COLUMNS)} FROM messages"
            " WHERE processed_time_seconds IS NOT NULL AND message_id IN ({keys})",
            (),
            wanted,
        )
    }
    if not found:
        return [{} for _ in calls]
    return [{message_id: result_of(found[message_id]) for message_id in call if message_id in found} for call in calls]


def get(db: Connection, message_ids: Sequence[MessageId], want_data: bool) -> list[common.Message]:
    """The messages, in the order asked.  Raises NotFound if one of them is unknown."""
    found = {row[0]: row for row in rows_in(db, _select(want_data), (), list(dict.fromkeys(message_ids)))}
    for message_id in message_ids:
        if message_id not in found:
            raise NotFound(f"there is no message {ids.show(message_id)}")
    return [message_of(found[message_id]) for message_id in message_ids]


def _select(want_data: bool) -> str:
    if want_data:
        return (
            f"SELECT {SELECTED_WITH_DATA} FROM messages AS m LEFT JOIN pending_messages AS p"
            " ON p.message_id = m.message_id WHERE m.message_id IN ({keys})"
        )
    return f"SELECT {SELECTED} FROM messages AS m WHERE m.message_id IN ({{keys}})"


def read_pending(db: Connection, message_ids: Sequence[bytes]) -> dict[bytes, common.Message]:
    """Messages that are pending, with payloads."""
    sql = (
        f"SELECT {SELECTED_WITH_DATA} FROM messages AS m JOIN pending_messages AS p ON p.message_id = m.message_id"
        " WHERE m.message_id IN ({keys})"
    )
    return {row[0]: message_of(row) for row in rows_in(db, sql, (), message_ids)}


def mark_processed(db: Connection, message_ids: Sequence[bytes], now_ns: int) -> None:
    """End messages that are pending, successfully."""
    seconds, nanos = divmod(now_ns, 10**9)
    run_in(
        db,
        "UPDATE messages SET processed_time_seconds = ?, processed_time_nanos = ?"
        " WHERE processed_time_seconds IS NULL AND message_id IN ({keys})",
        (seconds, nanos),
        message_ids,
    )
    end_pending(db, message_ids)


def _end_pending_of_failed(db: Connection, message_ids: Sequence[bytes]) -> None:
    """The same for messages that fail now, or had failed: a dead letter stays one."""
    run_in(
        db,
        "DELETE FROM pending_messages WHERE scheduled_time <> ? AND message_id IN ({keys})",
        (NEVER_DUE,),
        message_ids,
    )


def end_pending(db: Connection, message_ids: Sequence[bytes]) -> None:
    """Remove payloads, and with them the wait for a result."""
    run_in(db, "DELETE FROM pending_messages WHERE message_id IN ({keys})", (), message_ids)
