"""Lists of ids as requests of the admin port have them; an error says which one is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from fleetspeak import ids
from fleetspeak.errors import InvalidRecord
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.store.checks import BROADCAST_ID_SIZE

IdT = TypeVar("IdT", bound=bytes)


def client_ids(raw_ids: Iterable[bytes]) -> list[ClientId]:
    """Raises InvalidRecord."""
    return _each("client_ids", raw_ids, lambda raw: _required("client_id", ids.client_id(raw)))


def message_ids(raw_ids: Iterable[bytes]) -> list[MessageId]:
    """Raises InvalidRecord."""
    return _each("message_ids", raw_ids, lambda raw: _required("message_id", ids.message_id(raw)))


def broadcast_ids(raw_ids: Iterable[bytes]) -> list[bytes]:
    """Raises InvalidRecord."""
    return _each("broadcast_ids", raw_ids, _broadcast_id)


def _broadcast_id(raw: bytes) -> bytes:
    if len(raw) != BROADCAST_ID_SIZE:
        raise ValueError(f"BroadcastID must be {BROADCAST_ID_SIZE} bytes")
    return raw


def _required(name: str, found: IdT) -> IdT:
    if not found:
        raise ValueError(f"{name} is required")
    return found


def _each(name: str, raw_ids: Iterable[bytes], parse: Callable[[bytes], IdT]) -> list[IdT]:
    found = []
    for index, raw in enumerate(raw_ids):
        try:
            found.append(parse(raw))
        except ValueError as error:
            raise InvalidRecord(f"unable to parse id [{index}]: {error}", f"{name}[{index}]") from None
    return found
