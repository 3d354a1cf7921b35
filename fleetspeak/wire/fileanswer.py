"""What the answer to a request for a file is: which file, and which part of it if any."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from fleetspeak.errors import ProtocolError
from fleetspeak.wire.filerequest import format_date, parse_date

OK, PARTIAL, NOT_MODIFIED, PRECONDITION_FAILED, NOT_SATISFIABLE = 200, 206, 304, 412, 416

_SECOND = 10**9
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_SHOWN = 200
"""Bytes of a path that an error repeats."""


def parse_path(path: bytes) -> tuple[str, str]:
    """Service and name in the path of a request line.  Raises ProtocolError.

    Escapes are undone twice: in the path as a whole, and then in each of its parts.
    """
    shown = path[:_SHOWN].decode("ascii", "backslashreplace")
    parts = _unescape(path, shown).removeprefix(b"/").split(b"/")
    if len(parts) != 3 or parts[0] != b"files":
        raise ProtocolError(f'unable to parse files URI: "{shown}"')
    try:
        service, name = (_unescape(part, shown).decode() for part in parts[1:])
    except UnicodeDecodeError:
        raise ProtocolError(f'unable to parse path component: "{shown}" is not UTF-8') from None
    return service, name


def _unescape(text: bytes, shown: str) -> bytes:
    if _BAD_ESCAPE.search(text):
        raise ProtocolError(f'unable to parse path component: "{shown}" has a broken escape')
    return unquote_to_bytes(text)


@dataclass(frozen=True, slots=True)
class Asked:
    """The headers of a request that matter; one that is not there is an empty text."""

    range: str = ""
    if_range: str = ""
    if_match: str = ""
    if_none_match: str = ""
    if_modified_since: str = ""
    if_unmodified_since: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say."""

    status: int
    first: int
    """Byte of the file with which the body begins."""
    length: int
    """Bytes of the body."""
    headers: tuple[tuple[str, str], ...]
    """Without those about the body's length and type."""


def answer(asked: Asked, modified_ns: int, size: int) -> Answer:
    """The answer to a GET for a file that is there.

    The order of conditions is that of RFC 9110, 13.2.2.  A range that is not understood, and several at once, give
    the whole file.

    @param modified_ns: since the Unix epoch; 0 for a time that is not known.
    @param size: bytes.
    """
    etag = f'"{modified_ns:x}-{size:x}"'
    modified = modified_ns // _SECOND
    headers = [("Accept-Ranges", "bytes"), ("ETag", etag)]
    if modified_ns:
        headers.append(("Last-Modified", format_date(modified)))
    status = _condition(asked, etag, modified if modified_ns else None)
    if status != OK:
        return Answer(status, 0, 0, tuple(headers))
    given = _range(asked.range, size) if _range_holds(asked.if_range, etag, modified if modified_ns else None) else None
    if given is None:
        return Answer(OK, 0, size, tuple(headers))
    first, length = given
    if not length:
        return Answer(NOT_SATISFIABLE, 0, 0, (*headers, ("Content-Range", f"bytes */{size}")))
    return Answer(PARTIAL, first, length, (*headers, ("Content-Range", f"bytes {first}-{first + length - 1}/{size}")))


def _condition(asked: Asked, etag: str, modified: int | None) -> int:
    if asked.if_match:
        if not _names(asked.if_match, etag):
            return PRECONDITION_FAILED
    elif _is_later(modified, asked.if_unmodified_since):
        return PRECONDITION_FAILED
    if asked.if_none_match:
        if _names(asked.if_none_match, etag):
            return NOT_MODIFIED
    elif _is_later(modified, asked.if_modified_since) is False:
        return NOT_MODIFIED
    return OK


def _names(tags: str, etag: str) -> bool:
    return tags.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))


def _is_later(modified: int | None, date: str) -> bool | None:
    """Whether the file is newer than a date; None if one of them is not known."""
    since = parse_date(date) if date else None
    return None if modified is None or since is None else modified > since


def _range_holds(if_range: str, etag: str, modified: int | None) -> bool:
    """Whether what the peer has is a part of this very content."""
    if not if_range or if_range == etag:
        return True
    return modified is not None and not if_range.startswith(('"', "W/")) and parse_date(if_range) == modified


def _range(text: str, size: int) -> tuple[int, int] | None:
    """First byte and length; a length of 0: there is no such part.  None: the whole file is the answer."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match.groups() == ("", "") or not size:
        return None  # of an empty file, too: some peers send a Range with every request
    first_text, last_text = match.groups()
    if not first_text:
        length = min(int(last_text), size)
        return size - length, length
    first = int(first_text)
    last = min(int(last_text), size - 1) if last_text else size - 1
    if last_text and int(last_text) < first:
        return None
    return (first, last - first + 1) if first < size else (0, 0)
