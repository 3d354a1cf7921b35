"""Messages as operators look for them: pages, the newest first, and counts.

There are three ways to what is wanted: by the rows of `pending_messages`, which are few; by the client, of which the
messages that it is sent have an index, and those that it sent are linked to its contacts; and by the time of creation,
for which there is an index only where an operator made one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fleetspeak.errors import InvalidRecord
from fleetspeak.listings import (
    PENDING,
    ListedMessage,
    MessageCount,
    MessageFilter,
    MessageKey,
    MessageState,
    Span,
)
from fleetspeak.store.checks import cut_reason
from fleetspeak.store.sql.dialect import Connection, Row
from fleetspeak.store.sql.lists import Conditions, where
from fleetspeak.store.sql.messages import end_pending
from fleetspeak.store.sql.rows import SELECTED, WIDTH, message_of
from fleetspeak.store.sql.statements import rows_in, run_in
from fleetspeak.store.timing import NEVER_DUE, Timing

MAX_COUNTS = 10_000
"""Most kinds of messages that are counted at a time: types are made by clients."""

_KEY = "m.creation_time_seconds DESC, m.creation_time_nanos DESC, m.message_id DESC"
_KEPT = "p.message_id, p.retry_count, p.scheduled_time, LENGTH(p.data_value)"

_MESSAGES = "messages AS m"
_PAYLOADS = " LEFT JOIN pending_messages AS p ON p.message_id = m.message_id"
_BY_PENDING = "pending_messages AS p {in_order} messages AS m ON m.message_id = p.message_id"
_BY_CONTACT = (
    "(SELECT DISTINCT l.message_id FROM client_contacts AS c {in_order} client_contact_messages AS l"
    " ON l.client_contact_id = c.client_contact_id WHERE c.client_id = ?) AS sent {in_order} messages AS m"
    " ON m.message_id = sent.message_id"
)
_READ = f"SELECT {SELECTED}, {_KEPT} FROM {_MESSAGES}{_PAYLOADS} WHERE m.message_id IN ({{keys}})"

# What distinguishes the states, in the order in which they are told apart.
# Most messages are processed: only of the others the rows of `pending_messages` are looked at.
_STATE = (
    f"CASE WHEN m.processed_time_seconds IS NOT NULL AND COALESCE(m.failed, 0) = 0 THEN {MessageState.PROCESSED.value}"
    f" WHEN m.processed_time_seconds IS NOT NULL THEN CASE WHEN EXISTS (SELECT 1 FROM pending_messages AS k"
    f" WHERE k.message_id = m.message_id) THEN {MessageState.DEAD.value} ELSE {MessageState.FAILED.value} END"
    " WHEN EXISTS (SELECT 1 FROM pending_messages AS k WHERE k.message_id = m.message_id AND k.retry_count > 0)"
    f" THEN {MessageState.SENT.value} ELSE {MessageState.WAITING.value} END"
)
_WITH_PAYLOADS = (*PENDING, MessageState.FAILED, MessageState.DEAD)
"""States that cannot be told without `pending_messages`."""
_IN_STATE: dict[MessageState, str] = {
    MessageState.WAITING: "m.processed_time_seconds IS NULL AND COALESCE(p.retry_count, 0) = 0",
    MessageState.SENT: "m.processed_time_seconds IS NULL AND p.retry_count > 0",
    MessageState.PROCESSED: "m.processed_time_seconds IS NOT NULL AND COALESCE(m.failed, 0) = 0",
    MessageState.FAILED: "m.processed_time_seconds IS NOT NULL AND m.failed = 1 AND p.message_id IS NULL",
    MessageState.DEAD: "m.processed_time_seconds IS NOT NULL AND m.failed = 1 AND p.message_id IS NOT NULL",
}


def page(db: Connection, wanted: MessageFilter, before: MessageKey | None, limit: int) -> list[ListedMessage]:
    """Messages that fit, by descending key, below `before`."""
    found: list[ListedMessage] = []
    while True:
        missing = limit - len(found)
        keys = _page_of_keys(db, wanted, before, missing)
        rows = {row[0]: row for row in rows_in(db, _READ, (), [key.message_id for key in keys])}
        found += [_listed(rows[key.message_id]) for key in keys if key.message_id in rows]
        if len(keys) < missing or len(found) == limit:
            return found
        before = keys[-1]  # some are gone since their keys were found, which is not the end


def _page_of_keys(db: Connection, wanted: MessageFilter, before: MessageKey | None, limit: int) -> list[MessageKey]:
    """Their keys: what is looked at to find them is narrow."""
    found: set[MessageKey] = set()
    for source, first, conditions in _ways(db, wanted, joined=wanted.state in _WITH_PAYLOADS):
        if before is not None:
            conditions.append(("m.creation_time_seconds <= ?", before[:1]))
            conditions.append(("(m.creation_time_seconds, m.creation_time_nanos, m.message_id) < (?, ?, ?)", before))
        text, parameters = where(conditions)
        sql = (
            f"SELECT m.creation_time_seconds, m.creation_time_nanos, m.message_id FROM {source}{text}"
            f" ORDER BY {_KEY} LIMIT ?"
        )
        found.update(MessageKey(*row) for row in db.rows(sql, [*first, *parameters, limit]))
    return sorted(found, reverse=True)[:limit]


def counts(db: Connection, wanted: MessageFilter) -> list[MessageCount]:
    """How many messages fit, by service, type and state.  Raises InvalidRecord if they are of too many kinds."""
    service, kind = db.dialect.exact("m.destination_service_name"), db.dialect.exact("COALESCE(m.message_type, '')")
    total: dict[tuple[Any, ...], tuple[int, int]] = {}
    for source, first, conditions in _ways(db, wanted, joined=wanted.state in _WITH_PAYLOADS):
        text, parameters = where(conditions)
        rows = db.rows(
            f"SELECT {service} AS service, m.destination_client_id IS NOT NULL AS to_client, {kind} AS kind,"
            f" {_STATE} AS state, COUNT(*), MIN(m.creation_time_seconds) FROM {source}{text}"
            " GROUP BY service, to_client, kind, state LIMIT ?",
            [*first, *parameters, MAX_COUNTS + 1],
        )
        for *group, count, oldest in rows:
            known, since = total.get(tuple(group), (0, oldest))
            total[tuple(group)] = known + count, min(since, oldest)
    if len(total) > MAX_COUNTS:
        raise InvalidRecord(f"there are more than {MAX_COUNTS} kinds of such messages: ask for fewer of them")
    return [
        MessageCount(service, bool(to_client), kind, MessageState(state), count, oldest)
        for (service, to_client, kind, state), (count, oldest) in sorted(total.items())
    ]


def _ways(db: Connection, wanted: MessageFilter, *, joined: bool) -> Iterator[tuple[str, list[Any], Conditions]]:
    """From where, with which parameters, and under which conditions all that fits is found, and nothing twice.

    @param joined: with ``pending_messages AS p``.
    """
    common = list(_conditions(db, wanted))
    client_id, in_order = wanted.client_id, db.dialect.in_order
    payloads = _PAYLOADS if joined else ""
    if client_id:
        yield _MESSAGES + payloads, [], [("m.destination_client_id = ?", (client_id,)), *common]
        sent: Conditions = [
            ("m.source_client_id = ?", (client_id,)),
            ("(m.destination_client_id IS NULL OR m.destination_client_id <> ?)", (client_id,)),
        ]
        yield _BY_CONTACT.format(in_order=in_order) + payloads, [client_id], [*sent, *common]
    elif wanted.state in (*PENDING, MessageState.DEAD):
        yield _BY_PENDING.format(in_order=in_order), [], common
    else:
        yield _MESSAGES + payloads, [], common


def _conditions(db: Connection, wanted: MessageFilter) -> Iterator[tuple[str, tuple[Any, ...]]]:
    exact = db.dialect.exact
    if wanted.service:
        either = f"({exact('m.destination_service_name')} = ? OR {exact('m.source_service_name')} = ?)"
        yield either, (wanted.service, wanted.service)
    if wanted.message_type:
        yield f"{exact('m.message_type')} = ?", (wanted.message_type,)
    if wanted.state is MessageState.DEAD:
        yield "p.for_server = 1 AND p.scheduled_time = ?", (NEVER_DUE,)
    if wanted.state is not MessageState.ANY:
        yield _IN_STATE[wanted.state], ()
    yield from _created(wanted.created)


def _created(span: Span) -> Iterator[tuple[str, tuple[int, ...]]]:
    for limit, bound, beyond in ((span.start_ns, ">=", ">"), (span.end_ns, "<=", "<")):
        if limit is None:
            continue
        seconds, nanos = divmod(limit, 10**9)
        yield f"m.creation_time_seconds {bound} ?", (seconds,)  # for the index
        least = f"m.creation_time_nanos {'>=' if beyond == '>' else '<'} ?"
        yield f"(m.creation_time_seconds {beyond} ? OR {least})", (seconds, nanos)


def _listed(row: Row) -> ListedMessage:
    message = message_of(row[:WIDTH])
    kept, retries, due_us, size = row[WIDTH:]
    if not message.HasField("result"):
        state = MessageState.SENT if retries else MessageState.WAITING
        due_ns = None if due_us is None else due_us * 1000
        return ListedMessage(message, state, retries or 0, due_ns, size or 0)
    if not message.result.failed:
        return ListedMessage(message, MessageState.PROCESSED)
    if kept is None:
        return ListedMessage(message, MessageState.FAILED)
    return ListedMessage(message, MessageState.DEAD, payload_size=size or 0)


def cancel(db: Connection, message_ids: Sequence[bytes], reason: str, *, timing: Timing) -> int:
    """Let those of these messages that are pending fail.  Returns how many."""
    seconds, nanos = divmod(timing.now_ns(), 10**9)
    found = rows_in(
        db,
        "SELECT message_id FROM messages WHERE processed_time_seconds IS NULL AND message_id IN ({keys})"
        + db.dialect.for_update,
        (),
        list(dict.fromkeys(message_ids)),
    )
    pending = sorted({message_id for (message_id,) in found})
    run_in(
        db,
        "UPDATE messages SET processed_time_seconds = ?, processed_time_nanos = ?, failed = 1, failed_reason = ?"
        " WHERE message_id IN ({keys})",
        (seconds, nanos, cut_reason(reason)),
        pending,
    )
    end_pending(db, pending)
    return len(pending)
