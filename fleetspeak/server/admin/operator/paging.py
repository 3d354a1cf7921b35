"""Pages of lists, spans of time and ids, as requests have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtobufMessage

from fleetspeak import ids
from fleetspeak.core import pagetokens
from fleetspeak.errors import InvalidRecord
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.listings import Span
from fleetspeak.pb import operator
from fleetspeak.server.admin import requestids
from fleetspeak.store.checks import nanoseconds

DEFAULT_PAGE = 100
MAX_PAGE = 1000

MAX_IDS = 10_000
"""Most ids in one request, which are changed in one transaction."""

T = TypeVar("T")


class Page:
    """The page that a request asks for: how long it is, and behind which key it begins."""

    def __init__(self, request: Any, *kinds: type[pagetokens.Part]) -> None:
        """@param kinds: the types of the key's parts.  Raises InvalidRecord."""
        if request.page_size < 0:
            raise InvalidRecord("page_size must not be negative", "page_size")
        self.size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
        self._mark = _mark(request)
        self.key: tuple[Any, ...] | None = None
        """Of the last record of the page before; None at the start."""
        if request.page_token:
            try:
                self.key = pagetokens.decode(self._mark, request.page_token, kinds)
            except ValueError as error:
                raise InvalidRecord(str(error), "page_token") from None

    @property
    def look(self) -> int:
        """How many records to look for: one more than belong to the page tells whether there is another page."""
        return self.size + 1

    def cut(self, found: Sequence[T], key_of: Callable[[T], Sequence[pagetokens.Part]]) -> tuple[Sequence[T], str]:
        """The records of the page, of those that were found, and the token of the next one."""
        if len(found) <= self.size:
            return found, ""
        records = found[: self.size]
        return records, pagetokens.encode(self._mark, key_of(records[-1]))


def _mark(request: Any) -> bytes:
    asked: ProtobufMessage = type(request)()
    asked.CopyFrom(request)
    for field in ("page_size", "page_token"):
        asked.ClearField(field)
    name = asked.DESCRIPTOR.full_name.encode()
    return pagetokens.fingerprint(name + b"\0" + asked.SerializeToString(deterministic=True))


def span(name: str, given: operator.TimeSpan) -> Span:
    """A span of time.  Raises InvalidRecord."""
    start = nanoseconds(f"{name}.start", given.start) if given.HasField("start") else None
    end = nanoseconds(f"{name}.end", given.end) if given.HasField("end") else None
    if start is not None and end is not None and start > end:
        raise InvalidRecord(f"{name} is no span of time: its start is after its end", name)
    return Span(start, end)


def client_id(name: str, raw: bytes) -> ClientId:
    """A client id that must be there.  Raises InvalidRecord."""
    found = optional_client_id(name, raw)
    if not found:
        raise InvalidRecord(f"{name} is required", name)
    return found


def optional_client_id(name: str, raw: bytes) -> ClientId:
    """A client id, or none.  Raises InvalidRecord."""
    try:
        return ids.client_id(raw)
    except ValueError as error:
        raise InvalidRecord(f"{name}: {error}", name) from None


def client_ids(raw_ids: Sequence[bytes]) -> list[ClientId]:
    """Raises InvalidRecord."""
    return unique(requestids.client_ids(_few("client_ids", raw_ids)))


def message_ids(raw_ids: Sequence[bytes]) -> list[MessageId]:
    """Raises InvalidRecord."""
    return unique(requestids.message_ids(_few("message_ids", raw_ids)))


def broadcast_ids(raw_ids: Sequence[bytes]) -> list[bytes]:
    """Raises InvalidRecord."""
    return unique(requestids.broadcast_ids(_few("broadcast_ids", raw_ids)))


def _few(name: str, raw_ids: Sequence[bytes]) -> Sequence[bytes]:
    if len(raw_ids) > MAX_IDS:
        raise InvalidRecord(f"{len(raw_ids)} {name}, only {MAX_IDS} allowed", name)
    return raw_ids


def unique(found: Iterable[T]) -> list[T]:
    """Without repeats, in order."""
    return list(dict.fromkeys(found))


def choice(name: str, number: int, kinds: Callable[[int], T]) -> T:
    """The member of an enumeration of this number.  Raises InvalidRecord: there is none."""
    try:
        return kinds(number)
    except ValueError:
        raise InvalidRecord(f"{name} has no value {number}", name) from None
