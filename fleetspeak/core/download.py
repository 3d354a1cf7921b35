"""How a file is fetched piece by piece: what to ask for, and what an answer means for what is there already."""

from __future__ import annotations

from dataclasses import dataclass

from fleetspeak.errors import FileUnavailable, ProtocolError, TooLarge
from fleetspeak.wire import filerequest

STRONG_AFTER = 1
"""Seconds that a modification must lie before the answer, else the file may change again under the same date (RFC 9110,
8.8.2.2)."""

_OK, _PARTIAL, _UNCHANGED, _NOT_SATISFIABLE = 200, 206, 304, 416


@dataclass(frozen=True, slots=True)
class Version:
    """Which content of a file it is."""

    total: int | None
    """Bytes of the whole file; None if the server did not tell."""
    modified: int | None
    """Seconds since the Unix epoch; None if the server did not tell."""
    validator: str = ""
    """An ETag or date that no other content has, for If-Range.  Empty: there is none, a break means to start over."""


NOTHING = Version(None, None)
"""Nothing is known yet."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What an earlier attempt left behind."""

    version: Version
    size: int
    """Bytes that are there; more than none, and there is a validator."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of an answer says, as far as it matters here; a header that is not there is an empty text."""

    status: int
    length: int | None
    """Bytes of the body that were announced."""
    content_range: str = ""
    content_encoding: str = ""
    etag: str = ""
    last_modified: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """The body that follows is the file, from this byte on."""

    first: int
    version: Version


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The file is no newer than the caller's."""


@dataclass(frozen=True, slots=True)
class StartOver:
    """What was kept is of no use; ask for the whole."""


Verdict = Content | Unchanged | StartOver


def headers(since: float | None, kept: Kept | None) -> list[tuple[str, str]]:
    """Headers of the request.

    @param since: seconds since the Unix epoch; the file is wanted only if it is newer.
    """
    asked = []
    if since is not None:
        asked.append(("If-Modified-Since", filerequest.format_date(since)))
    if kept is not None:
        asked += [("Range", f"bytes={kept.size}-"), ("If-Range", kept.version.validator)]
    return asked


def judge(head: Head, kept: Kept | None, max_bytes: int) -> Verdict:
    """What an answer to a request with those headers means.

    @raise FileUnavailable: this server does not give it.
    @raise TooLarge: the file has more than `max_bytes`.
    @raise ProtocolError: the answer is not one to the question.
    """
    if head.status == _UNCHANGED:
        return Unchanged()
    if head.status == _NOT_SATISFIABLE and kept is not None:
        return StartOver()
    if head.status not in (_OK, _PARTIAL):
        raise FileUnavailable(f"failed with http response code: {head.status}", head.status)
    if head.content_encoding.lower() not in ("", "identity"):
        raise ProtocolError("the file comes in an encoding that was not asked for")
    content = _whole(head) if head.status == _OK else _rest(head, kept)
    if content.version.total is not None and content.version.total > max_bytes:
        raise TooLarge(f"the file has {content.version.total} bytes, more than the limit of {max_bytes}")
    return content


def _whole(head: Head) -> Content:
    return Content(0, Version(head.length, filerequest.parse_date(head.last_modified), _validator(head)))


def _rest(head: Head, kept: Kept | None) -> Content:
    if kept is None:
        raise ProtocolError("the answer is a part of the file although the whole was asked for")
    given = filerequest.parse_content_range(head.content_range)
    if given.first != kept.size or given.last != given.total - 1:
        raise ProtocolError(
            f"the answer holds bytes {given.first} to {given.last} of {given.total}; from {kept.size} on was asked for"
        )
    if kept.version.total not in (None, given.total):
        raise ProtocolError(f"the file has {given.total} bytes now and had {kept.version.total}")
    if head.length not in (None, given.total - given.first):
        raise ProtocolError(f"the answer has {head.length} bytes and claims to hold {given.total - given.first}")
    if kept.version.validator not in (head.etag, head.last_modified) and (head.etag or head.last_modified):
        raise ProtocolError("the answer is a part of another version of the file")
    return Content(given.first, Version(given.total, kept.version.modified, kept.version.validator))


def _validator(head: Head) -> str:
    """What tells this content from every other one; empty if nothing does."""
    if head.etag.startswith('"'):
        return head.etag
    modified, answered = filerequest.parse_date(head.last_modified), filerequest.parse_date(head.date)
    if modified is None or answered is None or answered - modified < STRONG_AFTER:
        return ""
    return head.last_modified
