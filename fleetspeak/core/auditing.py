"""What the audit trail says of a request: ids, names, numbers and sizes, never payloads.

A field is shown only if it is known to hold an id or a name; of any other text or bytes only the size is told, so that
a field which is added one day cannot leak what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

MAX_TEXT = 1_900
"""Characters in a description."""

MAX_LISTED = 20
"""Most values of a repeated field that are shown."""

MAX_NAME = 128
MAX_ID = 32

_IDS = {
    "broadcast_id",
    "broadcast_ids",
    "client_id",
    "client_ids",
    "message_id",
    "message_ids",
    "sha256",
    "source_message_id",
}
_NAMES = {
    "file_name",
    "group_name",
    "label",
    "labels",
    "message_type",
    "reason",
    "service_name",
    "type_url",
}


def describe(request: Message) -> str:
    """A request in at most `MAX_TEXT` characters, none of which is a control character."""
    text = ", ".join(_fields(request))
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def _fields(message: Message, prefix: str = "") -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if not field.is_repeated:
            yield from _field(name, field, value)
        elif _is_map(field):
            yield f"{name}={len(value)} entries"
        else:
            yield from _repeated(name, field, value)


def _field(name: str, field: FieldDescriptor, value: Any) -> Iterator[str]:
    if isinstance(value, Message) and not isinstance(value, (AnyProto, Timestamp, Duration)):
        yield from _fields(value, f"{name}.")
    else:
        yield f"{name}={_shown(field, value)}"


def _repeated(name: str, field: FieldDescriptor, values: Any) -> Iterator[str]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        for index, value in enumerate(values[:MAX_LISTED]):
            yield from _field(f"{name}[{index}]", field, value)
        if len(values) > MAX_LISTED:
            yield f"{name}: {len(values)} in all"
        return
    shown = [_shown(field, value) for value in values[:MAX_LISTED]]
    if len(values) > MAX_LISTED:
        shown.append(f"and {len(values) - MAX_LISTED} more")
    yield f"{name}=[{', '.join(shown)}]"


def _shown(field: FieldDescriptor, value: Any) -> str:
    match value:
        case bytes() if field.name in _IDS and len(value) <= MAX_ID:
            return value.hex()
        case bytes():
            return f"{len(value)} bytes"
        case str() if field.name in _NAMES:
            return printable(value, MAX_NAME)
        case str():
            return f"{len(value)} characters"
        case AnyProto():
            return f"{printable(value.type_url, MAX_NAME)} of {len(value.value)} bytes"
        case Timestamp() | Duration():
            return _time(value)
    if field.enum_type is not None and (known := field.enum_type.values_by_number.get(value)) is not None:
        return known.name
    return str(value)


def _time(value: Timestamp | Duration) -> str:
    try:
        return value.ToJsonString()
    except ValueError:
        return "no valid time"


def printable(text: str, length: int) -> str:
    """A text in quotes, with anything that is not printable escaped, cut to `length` characters."""
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
