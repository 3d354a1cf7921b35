"""Where the frames of HTTP/2 begin and end, for what the library that reads them (``h2``) does not do.

It takes a GOAWAY for the end of the connection, although that only says that no new request will be answered; so it is
taken out before the library sees it.  And it looks at the size of a frame when all of it is there, which may be 16 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fleetspeak.errors import ProtocolError, TooLarge

_HEAD = 9
_GOAWAY = 7
MAX_FRAME = 16384
"""Bytes of a frame, unless the receiver said otherwise (RFC 9113, 4.2)."""


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server takes no more requests on this connection."""

    last_stream_id: int
    """Requests on streams with greater numbers were not begun."""
    error_code: int


class FrameFilter:
    """Passes bytes on, but for GOAWAY frames, which it parses.  Holds at most one of those."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        """Bytes that are still to come of the frame that has begun."""
        self._goaway: bytearray | None = None

    def feed(self, data: bytes) -> Iterator[bytes | GoAway]:
        """What comes out, in the order in which it came.  Raises ProtocolError."""
        passed = bytearray()
        position = 0
        while position < len(data):
            if not self._left:
                taken = data[position : position + _HEAD - len(self._head)]
                self._head += taken
                position += len(taken)
                if len(self._head) < _HEAD:
                    break
                passed += self._begin()
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            if self._goaway is None:
                passed += piece
                continue
            self._goaway += piece
            if not self._left:
                yield bytes(passed)
                passed.clear()
                yield self._parse(self._goaway)
                self._goaway = None
        yield bytes(passed)

    def _begin(self) -> bytes:
        """A head is complete.  Returns it, if it is to be passed on."""
        head = bytes(self._head)
        self._head.clear()
        self._left = int.from_bytes(head[:3], "big")
        if self._left > MAX_FRAME:
            raise TooLarge(f"a frame of {self._left} bytes")
        if head[3] != _GOAWAY:
            return head
        if self._left < 8 or head[5:9] != bytes(4):
            raise ProtocolError("a GOAWAY frame that is none")
        self._goaway = bytearray()
        return b""

    @staticmethod
    def _parse(payload: bytearray) -> GoAway:
        return GoAway(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, int.from_bytes(payload[4:8], "big"))
