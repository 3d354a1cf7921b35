"""Messages as rows of the tables, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyProto

from fleetspeak.pb import common
from fleetspeak.store.checks import check_blobs, check_fields, check_result, cut_reason
from fleetspeak.store.sql.dialect import Row

MESSAGE_COLUMNS = (
    "message_id",
    "source_client_id",
    "source_service_name",
    "source_message_id",
    "destination_client_id",
    "destination_service_name",
    "message_type",
    "creation_time_seconds",
    "creation_time_nanos",
    "processed_time_seconds",
    "processed_time_nanos",
    "validation_info",
    "failed",
    "failed_reason",
    "annotations",
    "priority",
    "background",
    "is_blocklisted_source",
)
WIDTH = len(MESSAGE_COLUMNS)

RESULT_COLUMNS = ("processed_time_seconds", "processed_time_nanos", "failed", "failed_reason")

SELECTED = ", ".join(f"m.{column}" for column in MESSAGE_COLUMNS)
"""The columns `message_of` reads, of ``messages AS m``."""

SELECTED_WITH_DATA = f"{SELECTED}, p.data_type_url, p.data_value"
"""The same, and the payload, of ``pending_messages AS p``."""

ROW_BYTES = 200
"""What a message counts for besides its payload."""

Result = tuple[int, int, int | None, str | None]
"""The values of `RESULT_COLUMNS`."""
_NO_RESULT = (None, None, None, None)


class MessageRows:
    """Messages ready to be written: snapshots, so whatever happens to the messages afterwards."""

    __slots__ = ("flat", "message_ids", "payloads", "results", "size")

    def __init__(self) -> None:
        self.message_ids: list[bytes] = []
        self.flat: list[Any] = []
        """The values of `MESSAGE_COLUMNS` of all messages, one after the other."""
        self.results: list[tuple[bytes, Result]] = []
        """Of the messages that have one."""
        self.payloads: list[tuple[bool, bytes, str | None, bytes | None]] = []
        """Of the pending ones: for_server, message_id, data_type_url, data_value."""
        self.size = 0
        """About how many bytes all this is."""

    def cut_source_message_ids(self, size: int) -> None:
        """Cut them to the `size` that a column holds: an id that is longer would else keep its client from us."""
        place = MESSAGE_COLUMNS.index("source_message_id")
        self.flat[place::WIDTH] = [given and given[:size] for given in self.flat[place::WIDTH]]

    def extend(self, other: MessageRows) -> None:
        """Take what `other` has, behind one's own."""
        self.message_ids += other.message_ids
        self.flat += other.flat
        self.results += other.results
        self.payloads += other.payloads


def rows_of(messages: Sequence[common.Message]) -> MessageRows:
    """Make rows of messages.  Raises InvalidRecord if one of them cannot be stored."""
    rows = MessageRows()
    for message in messages:
        _add(rows, message)
    return rows


def _add(rows: MessageRows, message: common.Message) -> None:
    # The hottest code of the store: every field is read once.
    message_id, message_type = message.message_id, message.message_type
    source, destination, created = message.source, message.destination, message.creation_time
    source_client, source_service = source.client_id, source.service_name
    destination_client, destination_service = destination.client_id, destination.service_name
    created_seconds = created.seconds
    check_fields(
        message_id,
        created_seconds,
        source_client,
        destination_client,
        source_service,
        destination_service,
        message_type,
    )
    result: Result | tuple[None, None, None, None]
    if message.HasField("result"):
        check_result(message.result)
        result = result_values(message.result)
        rows.results.append((message_id, result))
    else:
        result = _NO_RESULT
        if message.HasField("data"):
            data = message.data
            value = data.value
            rows.payloads.append((not destination_client, message_id, data.type_url, value))
            rows.size += len(value)
        else:
            rows.payloads.append((not destination_client, message_id, None, None))
    validation = message.validation_info.SerializeToString() if message.HasField("validation_info") else None
    annotations = message.annotations.SerializeToString() if message.HasField("annotations") else None
    if validation or annotations:
        check_blobs(message_id, len(validation or b""), len(annotations or b""))
    seconds, nanos, failed, reason = result
    rows.size += ROW_BYTES
    rows.message_ids.append(message_id)
    rows.flat += (
        message_id,
        source_client or None,
        source_service,
        message.source_message_id or None,
        destination_client or None,
        destination_service,
        message_type,  # not NULL, which the Go server cannot read
        created_seconds,
        created.nanos,
        seconds,
        nanos,
        validation,
        failed,
        reason,
        annotations,
        message.priority,
        message.background,
        message.is_blocklisted_source,
    )


def result_values(result: common.MessageResult) -> Result:
    """The columns of a result that was checked."""
    time = result.processed_time
    if result.failed:
        return time.seconds, time.nanos, 1, cut_reason(result.failed_reason)
    return time.seconds, time.nanos, None, None


def result_of(row: Row) -> common.MessageResult:
    """The result in the values of `RESULT_COLUMNS`."""
    seconds, nanos, failed, reason = row
    result = common.MessageResult(failed=bool(failed), failed_reason=reason or "")
    time = result.processed_time
    time.seconds = seconds
    time.nanos = nanos or 0
    return result


def message_of(row: Row) -> common.Message:
    """The message in a row of `SELECTED`, or of `SELECTED_WITH_DATA`."""
    message = common.Message(
        message_id=row[0],
        source=common.Address(client_id=row[1] or b"", service_name=row[2]),
        source_message_id=row[3] or b"",
        destination=common.Address(client_id=row[4] or b"", service_name=row[5]),
        message_type=row[6] or "",
        priority=row[15],
        background=bool(row[16]),
        is_blocklisted_source=bool(row[17]),
    )
    created = message.creation_time
    created.seconds = row[7]
    created.nanos = row[8]
    if row[9] is not None:
        message.result.CopyFrom(result_of((row[9], row[10], row[12], row[13])))
    if row[11] is not None:
        message.validation_info.MergeFromString(row[11])
        message.validation_info.SetInParent()
    if row[14] is not None:
        message.annotations.MergeFromString(row[14])
        message.annotations.SetInParent()
    if len(row) > WIDTH and row[WIDTH] is not None:
        message.data.CopyFrom(AnyProto(type_url=row[WIDTH], value=row[WIDTH + 1] or b""))
    return message
