"""Request bodies: decompressed as they come, and never more of them in memory than the limits allow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from fleetspeak.errors import TooLarge
from fleetspeak.wire import streamframes
from fleetspeak.wire.compression import Inflater

MAX_BODY = 20 * 1024 * 1024
"""Bytes of a poll, before and after decompression."""

DEFLATE = "deflate"


def is_known_encoding(encoding: str) -> bool:
    """Whether bodies of this Content-Encoding can be read."""
    return encoding in ("", DEFLATE)


class WholeBody:
    """A body that is wanted as one piece."""

    def __init__(self, encoding: str = "", limit: int = MAX_BODY) -> None:
        self._inflater = Inflater() if encoding == DEFLATE else None
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take what has arrived.  Raises TooLarge, ProtocolError."""
        if self._inflater is None:
            self._add(data)
        else:
            for piece in self._inflater.feed(data):
                self._add(piece)

    def finish(self) -> bytes:
        """The body.  Raises ProtocolError if its compression does not end."""
        if self._inflater is not None:
            self._inflater.finish()
        return b"".join(self._pieces)

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._pieces.clear()
            raise TooLarge(f"more than {self._limit} bytes")
        self._pieces.append(piece)


class RecordReader:
    """A body that is a stream of records, handed out one by one.

    What was not asked for yet is kept as it arrived, compressed: so whoever stops feeding while `has_more` is true
    holds no more than one record and one read from the network.
    """

    def __init__(self, encoding: str = "") -> None:
        self._inflater = Inflater() if encoding == DEFLATE else None
        self._decoder = streamframes.Decoder(streamframes.MAX_RECORD, expect_magic=True)
        self._unread: deque[Iterator[bytes]] = deque()
        self._records: deque[bytes] = deque()

    @property
    def has_more(self) -> bool:
        """There is something that `next_record` has not looked at."""
        return bool(self._records or self._unread)

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._unread.append(iter((data,)) if self._inflater is None else iter(self._inflater.feed(data)))

    def next_record(self) -> bytes | None:
        """The next complete record, or None.  Raises ProtocolError, TooLarge; then there is nothing more to get."""
        while not self._records:
            if not self._unread:
                return None
            piece = next(self._unread[0], None)
            if piece is None:
                self._unread.popleft()
            else:
                self._records.extend(self._decoder.feed(piece))
        return self._records.popleft()

    def finish(self) -> None:
        """The body is complete, and all records were taken.  Raises ProtocolError if it ends within a record."""
        self._decoder.finish()
