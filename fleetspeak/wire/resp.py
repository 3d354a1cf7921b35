"""RESP, the protocol of Redis, versions 2 and 3.

Sans-I/O: commands to bytes, and bytes to the values that a server sends.  The server may be hostile, or not be Redis:
what it sends is bounded in size, number and depth, and anything that is not RESP is a ProtocolError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fleetspeak.errors import ProtocolError

MAX_BYTES = 64 * 1024
"""Of one line, or one string: we have no use for more."""

MAX_ITEMS = 1024
"""Of one array."""

MAX_DEPTH = 8

_END = b"\r\n"
_AGGREGATES = frozenset(b"*~>%|")
_NUMBER_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Error:
    """What the server says in place of an answer."""

    text: bytes


class Push(list[Any]):
    """What it says without being asked."""


Value = Any
"""bytes (strings of all kinds, and doubles), int, bool, None, `Error`, `Push`, or a list; a map is a list of keys and
values in turn."""


def command(*words: bytes) -> bytes:
    """A command with its arguments."""
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)])


@dataclass(slots=True)
class _Aggregate:
    """An array of some kind whose items are not all there yet."""

    kind: int
    missing: int
    items: list[Value] = field(default_factory=list)

    def value(self) -> Value:
        return Push(self.items) if self.kind == ord(">") else self.items


class _More(Exception):
    """The bytes end in the middle of something."""


class Parser:
    """Gives values as soon as they are complete, however the bytes come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._read = 0
        """Bytes of the buffer that are dealt with."""
        self._open: list[_Aggregate] = []

    def feed(self, data: bytes) -> list[Value]:
        """The values that are complete now.  Raises ProtocolError, and then is of no use any more."""
        self._buffer += data
        values: list[Value] = []
        try:
            while True:
                self._take(values)
        except _More:
            del self._buffer[: self._read]
            self._read = 0
        return values

    def _take(self, values: list[Value]) -> None:
        """Take the next piece, which may complete a value."""
        kind, line, end = self._line()
        if kind in _AGGREGATES:
            count = self._count(kind, line)
            self._read = end
            if count is None:
                self._complete(None, values)
            elif count:
                if len(self._open) >= MAX_DEPTH:
                    raise ProtocolError(f"arrays in more than {MAX_DEPTH} others")
                self._open.append(_Aggregate(kind, count))
            elif kind != ord("|"):
                self._complete(_Aggregate(kind, 0).value(), values)
        elif kind in b"$!=":
            self._complete(self._string(kind, line, end), values)
        else:
            self._read = end
            self._complete(_simple(kind, line), values)

    def _line(self) -> tuple[int, bytes, int]:
        """The kind of the next piece, the rest of its line, and where that ends."""
        if self._read >= len(self._buffer):
            raise _More
        end = self._buffer.find(_END, self._read, self._read + MAX_BYTES)
        if end < 0:
            if len(self._buffer) - self._read >= MAX_BYTES:
                raise ProtocolError(f"a line of more than {MAX_BYTES} bytes")
            raise _More
        return self._buffer[self._read], bytes(self._buffer[self._read + 1 : end]), end + len(_END)

    def _count(self, kind: int, line: bytes) -> int | None:
        count = _number(line)
        if count == -1 and kind == ord("*"):
            return None
        if not 0 <= count <= MAX_ITEMS:
            raise ProtocolError(f"an array of {count} items")
        return 2 * count if kind in b"%|" else count

    def _string(self, kind: int, line: bytes, start: int) -> Value:
        size = _number(line)
        if size == -1 and kind == ord("$"):
            self._read = start
            return None
        if not 0 <= size <= MAX_BYTES:
            raise ProtocolError(f"a string of {size} bytes")
        end = start + size
        if len(self._buffer) < end + len(_END):
            raise _More
        if self._buffer[end : end + len(_END)] != _END:
            raise ProtocolError("a string that does not end where it should")
        self._read = end + len(_END)
        text = bytes(self._buffer[start:end])
        if kind == ord("="):
            return text[4:]  # behind the format, such as "txt:"
        return Error(text) if kind == ord("!") else text

    def _complete(self, value: Value, values: list[Value]) -> None:
        """`value` is complete, and perhaps what it is in as well."""
        while self._open:
            inner = self._open[-1]
            inner.items.append(value)
            inner.missing -= 1
            if inner.missing:
                return
            self._open.pop()
            if inner.kind == ord("|"):  # attributes of the value that follows
                return
            value = inner.value()
        values.append(value)


def _simple(kind: int, line: bytes) -> Value:
    if kind in b"+,":
        return line
    if kind == ord("-"):
        return Error(line)
    if kind in b":(":
        return _number(line, MAX_BYTES if kind == ord("(") else _NUMBER_DIGITS)
    if kind == ord("_") and not line:
        return None
    if kind == ord("#") and line in (b"t", b"f"):
        return line == b"t"
    raise ProtocolError(f"this is not RESP: {bytes([kind]) + line[:20]!r}")


def _number(text: bytes, most: int = _NUMBER_DIGITS) -> int:
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    if not (digits.isdigit() and len(digits) <= min(most, 4000)):
        raise ProtocolError(f"not a number: {text[:20]!r}")
    return int(text)
