"""Identifiers: how they are made, parsed and printed.

Ids travel as ``bytes`` everywhere; the ``NewType`` names only tell readers and mypy which is which.  The
empty id is ``b""`` and prints as ``nil``.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NewType

ClientId = NewType("ClientId", bytes)
MessageId = NewType("MessageId", bytes)

CLIENT_ID_SIZE = 8
MESSAGE_ID_SIZE = 32
SOURCE_MESSAGE_ID_SIZE = 16
"""Bytes in the source_message_id our client makes; the database column holds no more."""

NO_CLIENT = ClientId(b"")
NO_MESSAGE = MessageId(b"")


def client_id_of_key(public_key_der: bytes) -> ClientId:
    """The id of the client that holds this key, given as DER SubjectPublicKeyInfo."""
    return ClientId(hashlib.sha256(public_key_der).digest()[:CLIENT_ID_SIZE])


def client_id(raw: bytes) -> ClientId:
    """Check the length of `raw`.  Raises ValueError unless it is 0 or 8 bytes."""
    if len(raw) not in (0, CLIENT_ID_SIZE):
        raise ValueError("ClientID must be 8 bytes")
    return ClientId(raw)


def parse_client_id(text: str) -> ClientId:
    """Read 16 hex digits of either case; empty and ``nil`` give the empty id.  Raises ValueError."""
    return ClientId(_parse(text, CLIENT_ID_SIZE, "ClientID"))


def message_id(raw: bytes) -> MessageId:
    """Check the length of `raw`.  Raises ValueError unless it is 0 or 32 bytes."""
    if len(raw) not in (0, MESSAGE_ID_SIZE):
        raise ValueError("MessageID must be 32 bytes")
    return MessageId(raw)


def parse_message_id(text: str) -> MessageId:
    """Read 64 hex digits of either case; empty and ``nil`` give the empty id.  Raises ValueError."""
    return MessageId(_parse(text, MESSAGE_ID_SIZE, "MessageID"))


def message_id_of(source: ClientId, service: str, source_message_id: bytes) -> MessageId:
    """The id of a client's message: equal for every repeat of the same message."""
    return MessageId(hashlib.sha256(b"\0".join((source, service.encode(), source_message_id))).digest())


def random_message_id() -> MessageId:
    """The id of a message made on the server side."""
    return MessageId(secrets.token_bytes(MESSAGE_ID_SIZE))


def show(raw: bytes) -> str:
    """Any id as people and logs read it: lower-case hex, or ``nil``."""
    return raw.hex() or "nil"


def _parse(text: str, size: int, name: str) -> bytes:
    if text in ("", "nil"):
        return b""
    if len(text) != 2 * size:
        raise ValueError(f"{name} must be {2 * size} characters")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"{name} must be hexadecimal, got {text!r}") from None
