"""What a request for a file looks like: its path, the dates in its headers, and which part an answer holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import quote

from fleetspeak.errors import ProtocolError

PREFIX = "/files/"

_SAFE = "-_.~$&+=:@"
"""What stays in a part of the path besides letters and digits: the alphabet of Go's url.PathEscape."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds())


def path(service: str, name: str) -> str:
    """The path of a file, for the request line.

    Each part is percent-escaped, and the path once more: a space arrives as ``%2520``, and the server undoes both.
    """
    return PREFIX + "/".join(_part(part).replace("%", "%25") for part in (service, name))


def _part(text: str) -> str:
    # A part of dots only would be taken for a step up in the path, and be cleaned away on the way.
    return quote(text, safe=_SAFE) if text.strip(".") else text.replace(".", "%2E")


def format_date(seconds: float) -> str:
    """An HTTP date, in GMT.  `seconds` since the Unix epoch; parts of a second are dropped."""
    whole = min(max(int(seconds // 1), 0), _LAST_SECOND)
    return format_datetime(datetime.fromtimestamp(whole, UTC), usegmt=True)


def parse_date(text: str) -> int | None:
    """Seconds since the Unix epoch of an HTTP date; None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
        return int(((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH).total_seconds())
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Which bytes of how many an answer holds."""

    first: int
    last: int
    """The last one that is in it."""
    total: int


def parse_content_range(text: str) -> ContentRange:
    """The value of a Content-Range header with everything known.  Raises ProtocolError."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise ProtocolError("the Content-Range of the answer is missing or not understood")
    first, last, total = map(int, match.groups())
    if not first <= last < total:
        raise ProtocolError(f"the answer claims the impossible range {first}-{last} of {total}")
    return ContentRange(first, last, total)
