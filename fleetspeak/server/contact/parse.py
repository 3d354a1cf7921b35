"""The contact data itself: parsed, and within its limits."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.pb import common
from fleetspeak.records import MAX_MESSAGES_PER_CONTACT
from fleetspeak.wire import contact

_MIN_SECONDS = 0
_MAX_SECONDS = 253_402_300_799
"""The last second of the year 9999, where a protobuf Timestamp ends."""


def parse(wrapped: common.WrappedContactData) -> common.ContactData:
    """Parse what is wrapped.  Raises ProtocolError; TooLarge for too many messages."""
    try:
        data = contact.parse(wrapped.contact_data)
    except ProtocolError as error:
        raise ProtocolError(f"unable to parse contact_data: {error}") from error
    count = len(data.messages)
    if count > MAX_MESSAGES_PER_CONTACT:
        raise TooLarge(f"contact_data contains {count} messages, only {MAX_MESSAGES_PER_CONTACT} allowed")
    return data


def clock_of(data: common.ContactData) -> Timestamp | None:
    """The client's clock, if it tells one that can be stored."""
    if not data.HasField("client_clock"):
        return None
    clock = data.client_clock
    if not (_MIN_SECONDS <= clock.seconds <= _MAX_SECONDS and 0 <= clock.nanos < 1_000_000_000):
        return None
    return clock
