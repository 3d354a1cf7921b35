"""What every store refuses: records that no database of ours could hold as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.errors import InvalidRecord
from fleetspeak.ids import CLIENT_ID_SIZE, MESSAGE_ID_SIZE, show
from fleetspeak.pb import broadcasts, common
from fleetspeak.records import UNLIMITED, AuditCall, AuditEnd, Contact, Exchange, Label

BROADCAST_ID_SIZE = 8

MAX_NAME = 128
"""Characters in the name of a service, a label or a message type: the width of the columns."""

MAX_BLOB = 65_535
"""Bytes in the annotations or the validation info of a message."""

MAX_REASON = 65_535
"""Bytes in a failed_reason: what a TEXT column holds."""

MAX_ADDRESS = 64
"""Characters in the address of a contact."""

MAX_FILE = 2**24 - 1
"""Bytes in a file: what a MEDIUMBLOB column holds."""

MAX_AUDIT_NAME = 255
"""Characters in the caller, the address and the method of an entry of the audit trail."""

MAX_AUDIT_TEXT = 2_000
"""Characters in the request and the detail of an entry of the audit trail."""

MAX_SETTING = 4096
"""Characters in the value of a setting."""

_MAX_NONCE = 2**64 - 1
_MAX_ROW = 2**63 - 1
_HEX = re.compile("[0-9a-fA-F]{1,16}")


def check_message(message: common.Message) -> None:
    """Raise InvalidRecord if `message` cannot be stored."""
    source, destination = message.source, message.destination
    check_fields(
        message.message_id,
        message.creation_time.seconds,
        source.client_id,
        destination.client_id,
        source.service_name,
        destination.service_name,
        message.message_type,
    )
    check_blobs(message.message_id, message.validation_info.ByteSize(), message.annotations.ByteSize())
    if message.HasField("result"):
        check_result(message.result)


def check_blobs(message_id: bytes, *blobs: int) -> None:
    """Raise InvalidRecord if one of these numbers of bytes is more than its column holds."""
    if any(size > MAX_BLOB for size in blobs):
        raise InvalidRecord(f"message {show(message_id)}: its annotations have more than {MAX_BLOB} bytes")


def check_fields(
    message_id: bytes,
    creation_seconds: int,
    source_client: bytes,
    destination_client: bytes,
    source_service: str,
    destination_service: str,
    message_type: str,
) -> None:
    """Raise InvalidRecord if a message with these fields cannot be stored.

    By fields, because whoever makes a row of a message has them at hand, and each look into a message costs.
    """
    if len(message_id) != MESSAGE_ID_SIZE:
        raise InvalidRecord(f"MessageID must be {MESSAGE_ID_SIZE} bytes, not {len(message_id)}")
    if not creation_seconds:
        raise InvalidRecord(f"message {show(message_id)}: message CreationTime must be set")
    if source_client:
        check_client_id(source_client)
    if destination_client:
        check_client_id(destination_client)
    if len(source_service) > MAX_NAME or len(destination_service) > MAX_NAME or len(message_type) > MAX_NAME:
        raise InvalidRecord(f"message {show(message_id)}: a service name or type has more than {MAX_NAME} characters")


def check_result(result: common.MessageResult) -> None:
    """Raise InvalidRecord for a result without the time that makes a message processed."""
    if not result.HasField("processed_time"):
        raise InvalidRecord("a result must have its processed_time")


def check_client_id(client_id: bytes) -> None:
    """Raise InvalidRecord unless this is the id of a client."""
    if len(client_id) != CLIENT_ID_SIZE:
        raise InvalidRecord(f"ClientID must be {CLIENT_ID_SIZE} bytes, not {len(client_id)}")


def check_labels(labels: Iterable[Label]) -> None:
    """Raise InvalidRecord for a label that is too long."""
    for label in labels:
        if not label_fits(label):
            raise InvalidRecord(f"a label of service {label.service[:MAX_NAME]!r} has more than {MAX_NAME} characters")


def label_fits(label: Label) -> bool:
    """Whether the columns hold it."""
    return len(label.service) <= MAX_NAME and len(label.label) <= MAX_NAME


def check_broadcast(broadcast: broadcasts.Broadcast, limit: int, max_errors: int) -> None:
    """Raise InvalidRecord if `broadcast` cannot be stored."""
    if len(broadcast.broadcast_id) != BROADCAST_ID_SIZE:
        raise InvalidRecord(f"BroadcastID must be {BROADCAST_ID_SIZE} bytes, not {len(broadcast.broadcast_id)}")
    if not broadcast.source.service_name:
        raise InvalidRecord("Broadcast must have Source")
    names = (
        broadcast.source.service_name,
        broadcast.destination.service_name,
        broadcast.message_type,
        broadcast.group_name,
    )
    if max(map(len, names)) > MAX_NAME:
        raise InvalidRecord(f"a service name, type or group of the broadcast has more than {MAX_NAME} characters")
    check_labels(Label(label.service_name, label.label) for label in broadcast.required_labels)
    if broadcast.HasField("expiration_time"):
        nanoseconds("expiration_time", broadcast.expiration_time)
    if not 0 <= limit <= UNLIMITED:
        raise InvalidRecord(f"the limit of a broadcast must be at most {UNLIMITED}")
    if not 0 <= max_errors < 2**31:
        raise InvalidRecord("the number of errors a broadcast may have must be below 2147483648")


def check_contact(contact: Contact) -> None:
    """Raise InvalidRecord if `contact` cannot be recorded."""
    check_client_id(contact.client_id)
    if not (0 <= contact.sent_nonce <= _MAX_NONCE and 0 <= contact.received_nonce <= _MAX_NONCE):
        raise InvalidRecord("a nonce must be an unsigned number of 64 bits")
    if len(contact.address) > MAX_ADDRESS:
        raise InvalidRecord(f"the address of a contact has more than {MAX_ADDRESS} characters")


def clock_of(contact: Contact) -> Timestamp | None:
    """The client's clock, if it is one that the columns hold: not before 1970."""
    clock = contact.clock
    if clock is None or clock.seconds < 0 or not 0 <= clock.nanos < 10**9:
        return None
    return clock


def check_exchange(exchange: Exchange) -> None:
    """Raise InvalidRecord if parts of `exchange` do not go together, or cannot be recorded; messages apart."""
    if exchange.contact is not None:
        check_contact(exchange.contact)
    elif exchange.new_client is not None:
        raise InvalidRecord("a new client is enrolled together with its contact only")
    if exchange.claim is not None:
        check_client_id(exchange.claim.client_id)


def check_file_names(service: str, name: str) -> None:
    """Raise InvalidRecord if there cannot be such a file."""
    if len(service) > MAX_NAME or len(name) > MAX_NAME:
        raise InvalidRecord(f"the name of a file or of its service has more than {MAX_NAME} characters")


def check_file(service: str, name: str, data: bytes) -> None:
    """Raise InvalidRecord if a file cannot be stored."""
    check_file_names(service, name)
    if len(data) > MAX_FILE:
        raise InvalidRecord(f"file {service}/{name} has {len(data)} bytes, more than the {MAX_FILE} that can be stored")


def cut_audit_call(call: AuditCall) -> AuditCall:
    """A call with its texts cut to what the columns hold: an entry must not be lost for its length."""
    return AuditCall(
        caller=_cut(call.caller, MAX_AUDIT_NAME),
        address=_cut(call.address, MAX_AUDIT_NAME),
        role=call.role,
        method=_cut(call.method, MAX_AUDIT_NAME),
        request=_cut(call.request, MAX_AUDIT_TEXT),
    )


def cut_audit_end(end: AuditEnd) -> AuditEnd:
    """The same for the end of a call."""
    return replace(end, detail=_cut(end.detail, MAX_AUDIT_TEXT))


def _cut(text: str, length: int) -> str:
    """At most so many characters, all of which a database takes; ``...`` says that something was cut off."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
    return text if len(text) <= length else f"{text[: length - 3]}..."


def check_setting(name: str, value: str) -> None:
    """Raise InvalidRecord if a setting cannot be stored."""
    if not 0 < len(name) <= MAX_NAME or len(value) > MAX_SETTING:
        raise InvalidRecord(f"a setting has at most {MAX_NAME} characters in its name, and {MAX_SETTING} in its value")


def contact_row(contact_id: str) -> int | None:
    """The row a contact id stands for, None for the empty one.  Raises InvalidRecord."""
    if not contact_id:
        return None
    row = int(contact_id, 16) if _HEX.fullmatch(contact_id) else -1
    if not 0 <= row <= _MAX_ROW:
        raise InvalidRecord(f"{contact_id[:40]!r} is no contact id")
    return row


def contact_id_of(row: int) -> str:
    """The contact id that stands for a row."""
    return f"{row:x}"


def nanoseconds(name: str, time: Timestamp) -> int:
    """A time as nanoseconds.  Raises InvalidRecord if it is no valid time, or too far off."""
    try:
        value = time.ToNanoseconds()
    except ValueError as error:
        raise InvalidRecord(f"{name} is no valid time: {error}") from error
    if not -(2**63) <= value < 2**63:
        raise InvalidRecord(f"{name} is further away than a store can tell")
    return value


def age(message: common.Message) -> tuple[int, int, bytes]:
    """The order in which messages are handed out: oldest first, then by id."""
    return message.creation_time.seconds, message.creation_time.nanos, message.message_id


def cut_reason(reason: str) -> str:
    """A failed_reason, cut to what the column holds, at the end of a character."""
    if len(reason) <= MAX_REASON // 4:
        return reason
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
