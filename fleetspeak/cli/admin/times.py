"""Times as people read and write them."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.cli.admin.failure import CommandFailed

_UTC = datetime.UTC
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_LONGEST = 366 * 86400.0 * 1000

_HOW = (
    "a time is 2026-11-28, 2026-11-28T14:30:00Z (or with an offset such as +01:00), or how long ago: 90s, 30m, 2h, 7d"
)
_HOW_LONG = "a duration is a number with a unit: 90s, 30m, 2h, 7d, or 1h30m"


@dataclass(frozen=True, slots=True)
class Times:
    """How times are shown: in UTC, or in this machine's time zone."""

    local: bool = False

    def upstream(self, time: Timestamp | None) -> str:
        """As upstream's tool has them: ``12:00:00.123 2017.06.01``."""
        if time is None:
            return "-"
        at = self._at(time)
        date = f"{at.year:04}.{at.month:02}.{at.day:02}"
        return f"{at.hour:02}:{at.minute:02}:{at.second:02}.{time.nanos // 1_000_000:03} {date}"

    def in_full(self, time: Timestamp) -> str:
        """As Go prints a time: ``2017-06-01 12:00:00.123456789 +0000 UTC``."""
        at = self._at(time)
        fraction = f".{time.nanos:09}".rstrip("0").rstrip(".")
        return f"{_date_and_time(at)}{fraction} {at:%z %Z}"

    def show(self, time: Timestamp) -> str:
        """For people: ``2017-06-01 12:00:00.123Z``, or with the offset of the local time."""
        at = self._at(time)
        offset = f"{at:%z}"
        zone = f"{offset[:3]}:{offset[3:5]}" if self.local else "Z"
        return f"{_date_and_time(at)}.{time.nanos // 1_000_000:03}{zone}"

    def _at(self, time: Timestamp) -> datetime.datetime:
        """To the second."""
        try:
            at = _EPOCH + datetime.timedelta(seconds=time.seconds)
            return at.astimezone() if self.local else at
        except OverflowError:
            return datetime.datetime.min.replace(tzinfo=_UTC)


def _date_and_time(at: datetime.datetime) -> str:
    return f"{at.year:04}-{at.month:02}-{at.day:02} {at.hour:02}:{at.minute:02}:{at.second:02}"


def as_json(time: Timestamp) -> str | None:
    """RFC 3339 in UTC, as protobuf's JSON has it; None for what is no time."""
    try:
        return time.ToJsonString()
    except ValueError:
        return None


def to_nanoseconds(time: Timestamp) -> int:
    """Since the epoch; also of what is no valid time."""
    return time.seconds * 10**9 + time.nanos


def from_nanoseconds(nanoseconds: int) -> Timestamp:
    """The same point in time."""
    seconds, nanos = divmod(nanoseconds, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)


def parse(text: str, now: float, *, ahead: bool = False) -> Timestamp:
    """A point in time, or how long before `now` (seconds since the epoch), or after it.  Raises CommandFailed.

    What has no time zone is UTC.
    """
    if text == "now":
        return from_nanoseconds(int(now * 1e9))
    distance = _seconds(text)
    if distance is not None:
        return from_nanoseconds(int((now + distance if ahead else now - distance) * 1e9))
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(f"{text!r} is no time", _HOW) from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=_UTC)
    elapsed = at - _EPOCH
    return from_nanoseconds((elapsed.days * 86400 + elapsed.seconds) * 10**9 + elapsed.microseconds * 1000)


def parse_duration(text: str) -> float:
    """Seconds; a bare number is seconds too.  Raises CommandFailed."""
    try:
        seconds: float | None = float(text)
    except ValueError:
        seconds = _seconds(text)
    if seconds is None or not 0 <= seconds <= _LONGEST:
        raise CommandFailed(f"{text!r} is no duration", _HOW_LONG)
    return seconds


def _seconds(text: str) -> float | None:
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return seconds if seconds <= _LONGEST else None
