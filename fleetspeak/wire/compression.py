"""`Content-Encoding: deflate`: zlib streams (RFC 1950), taken apart in bounded pieces."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from fleetspeak.errors import ProtocolError, TooLarge

CHUNK = 64 * 1024
"""Most bytes that come out of an `Inflater` at once, whatever went in."""


class Inflater:
    """Takes a zlib stream apart as it arrives."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` expands to, in pieces of at most `CHUNK` bytes, made only as they are asked for.

        Raises ProtocolError if it is no zlib stream, or has bytes behind its end.
        """
        while True:
            if self._inflate.eof and data:
                raise ProtocolError("bytes behind the end of the zlib stream")
            piece = self._expand(data, CHUNK)
            data = self._inflate.unconsumed_tail
            if piece:
                yield piece
            if self._inflate.unused_data:
                raise ProtocolError("bytes behind the end of the zlib stream")
            if not data and len(piece) < CHUNK:
                return

    def finish(self) -> None:
        """The input has ended.  Raises ProtocolError if the zlib stream has not."""
        if not self._inflate.eof:
            raise ProtocolError("the zlib stream is cut off")

    def _expand(self, data: bytes, limit: int) -> bytes:
        try:
            return self._inflate.decompress(data, limit)
        except zlib.error as error:
            raise ProtocolError(f"failed to create zlib reader: {error}") from None


class Deflater:
    """Makes one zlib stream of many pieces; each can be read at once by the other side."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj()

    def feed(self, data: bytes) -> bytes:
        """The compressed bytes, ending in a sync flush."""
        return self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """The end of the stream."""
        return self._deflate.flush()


def compress(data: bytes) -> bytes:
    """A whole body."""
    return zlib.compress(data)


def decompress(data: bytes, limit: int) -> bytes:
    """A whole body of at most `limit` bytes.  Raises TooLarge beyond that, ProtocolError for what is no zlib stream."""
    inflater = Inflater()
    pieces: list[bytes] = []
    size = 0
    for piece in inflater.feed(data):
        size += len(piece)
        if size > limit:
            raise TooLarge(f"body of more than {limit} bytes when decompressed")
        pieces.append(piece)
    inflater.finish()
    return b"".join(pieces)
