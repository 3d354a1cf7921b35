"""Contact data and what it is wrapped in."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError

from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common


def wrap(contact: common.ContactData, labels: Iterable[str], signatures: Iterable[common.Signature] = ()) -> bytes:
    """What a client sends."""
    return common.WrappedContactData(
        contact_data=contact.SerializeToString(), client_labels=labels, signatures=signatures
    ).SerializeToString()


def wrap_signed(
    contact: common.ContactData, labels: Iterable[str], sign: Callable[[bytes], Iterable[common.Signature]]
) -> common.WrappedContactData:
    """The same before it is serialized, with the signatures that `sign` makes over the very bytes that are sent."""
    data = contact.SerializeToString()
    return common.WrappedContactData(contact_data=data, client_labels=labels, signatures=sign(data))


def unwrap(data: bytes) -> common.WrappedContactData:
    """What a server got.  Raises ProtocolError."""
    try:
        return common.WrappedContactData.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"not a WrappedContactData: {error}") from None


def parse(data: bytes) -> common.ContactData:
    """The contact data itself.  Raises ProtocolError."""
    try:
        return common.ContactData.FromString(data)
    except DecodeError as error:
        raise ProtocolError(f"not a ContactData: {error}") from None
