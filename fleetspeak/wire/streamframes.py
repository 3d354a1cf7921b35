"""Records of a stream: a varint length and so many bytes; the client's side begins with a magic number."""

from __future__ import annotations

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.wire import varint

MAGIC = b"\x01\x10\xee\xf1"
"""0xF1EE1001, little-endian."""

MAX_RECORD = 20 * 1024 * 1024
"""Bytes in a record of a client; servers refuse more."""

MAX_SERVER_RECORD = 64 * 1024 * 1024
"""Bytes in a record of a server; upstream's clients set no limit, ours does."""


def encode(body: bytes) -> bytes:
    """One record."""
    return varint.encode(len(body)) + body


class Decoder:
    """Cuts a stream into records, wherever the transport cut it.  A record's length is judged before it is kept."""

    def __init__(self, limit: int = MAX_RECORD, expect_magic: bool = False) -> None:
        self._limit = limit
        self._magic_due = expect_magic
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes held back because their record is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The records that `data` completes.

        Raises TooLarge for a record over the limit, ProtocolError for a wrong magic number or length; the decoder
        is of no use after that.
        """
        self._buffer += data
        if self._magic_due and not self._take_magic():
            return []
        records: list[bytes] = []
        offset = 0
        while (found := varint.decode(self._buffer, offset)) is not None:
            size, start = found
            if size > self._limit:
                raise TooLarge(f"record of {size} bytes, only {self._limit} allowed")
            if len(self._buffer) - start < size:
                break
            offset = start + size
            records.append(bytes(self._buffer[start:offset]))
        del self._buffer[:offset]
        return records

    def finish(self) -> None:
        """The stream has ended.  Raises ProtocolError if that was inside a record or the magic number."""
        if self._magic_due:
            raise ProtocolError("the stream ended before its magic number")
        if self._buffer:
            raise ProtocolError("the stream ended inside a record")

    def _take_magic(self) -> bool:
        start = bytes(self._buffer[: len(MAGIC)])
        if not MAGIC.startswith(start):
            raise ProtocolError(f"wrong magic number: {start.hex()}, expected {MAGIC.hex()}")
        if len(start) < len(MAGIC):
            return False
        del self._buffer[: len(MAGIC)]
        self._magic_due = False
        return True
