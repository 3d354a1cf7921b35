"""Records of the client's spool: whole or not at all, and found again behind damaged ones.

A segment is records one behind the other and nothing else::

    marker (4)  length of the body (4)  number (8)  CRC-32 of the body (4)  CRC-32 of the 20 bytes before (4)  body

Little-endian.  Both checksums start from the segment's seed, a random number in the name of its file: so bytes within
a message, whoever wrote it, are not taken for a record when the reader looks for the next one behind damage.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAX_BODY = 16 * 1024 * 1024
"""Bytes in a body; a length over it is damage, and nothing is allocated for it."""

_MARKER = b"\xf5SPL"
_HEAD = struct.Struct("<4sIQI")
_CRC = struct.Struct("<I")
HEADER = _HEAD.size + _CRC.size
"""Bytes that a record takes beyond its body."""

_ACK = struct.Struct("<QQ")
ACK_SIZE = _ACK.size + _CRC.size
"""Bytes of one entry in a file of acks."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a segment."""

    number: int
    body: bytes
    end: int
    """Where it ends in what was scanned."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A range of bytes that holds no record."""

    start: int
    end: int
    torn: bool
    """It is what an interrupted write leaves at the end of a segment, and no sign of anything wrong."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a piece of a segment holds."""

    records: list[Record]
    damages: list[Damage]
    used: int
    """Bytes that were dealt with; the next piece begins there."""
    needed: int
    """Bytes from `used` on that it takes to go on; 0 if nothing is left, or the limit was reached.  If it is more
    than the piece has, and the piece is not the whole rest, look again at a larger one."""


def encode(number: int, body: bytes, seed: int) -> bytes:
    """A record.  0 < `number` < 2**64, 0 <= `seed` < 2**32.  Raises ValueError for a body over `MAX_BODY`."""
    if len(body) > MAX_BODY:
        raise ValueError(f"a record of {len(body)} bytes, only {MAX_BODY} allowed")
    head = _HEAD.pack(_MARKER, len(body), number, zlib.crc32(body, seed))
    return b"".join((head, _CRC.pack(zlib.crc32(head, seed)), body))


def scan(data: bytes, seed: int, *, whole: bool, limit: int = 1 << 62) -> Scan:
    """Take the records apart that `data` begins with, up to `limit` of them.

    @param whole: `data` is all that is left of the segment; otherwise more may follow.
    """
    records: list[Record] = []
    damages: list[Damage] = []
    at = 0
    while at < len(data) and len(records) < limit:
        size = _size_at(data, at, seed)
        if size is not None and at + size <= len(data) and (record := _record_at(data, at, size, seed)) is not None:
            records.append(record)
            at = record.end
            continue
        if not whole and (at + (size or HEADER) > len(data)):
            return Scan(records, damages, at, size or HEADER)
        behind = _next_record(data, at + 1, seed)
        if behind is None and not whole:
            # It may go on behind this piece.  The reader gives all there is, and the search is made once.
            return Scan(records, damages, at, 1 << 62)
        end = len(data) if behind is None else behind
        damages.append(Damage(at, end, behind is None and _is_torn(data, at, size)))
        at = end
    return Scan(records, damages, at, 0)


def _size_at(data: bytes, at: int, seed: int) -> int | None:
    """Bytes of the record whose header is there; None if no header is, or not all of it."""
    if len(data) - at < HEADER:
        return None
    head = data[at : at + _HEAD.size]
    marker, length, number, _ = _HEAD.unpack(head)
    (crc,) = _CRC.unpack_from(data, at + _HEAD.size)
    if marker != _MARKER or length > MAX_BODY or not number or crc != zlib.crc32(head, seed):
        return None
    return HEADER + int(length)


def _record_at(data: bytes, at: int, size: int, seed: int) -> Record | None:
    _, _, number, crc = _HEAD.unpack_from(data, at)
    body = data[at + HEADER : at + size]
    return Record(number, body, at + size) if crc == zlib.crc32(body, seed) else None


def _next_record(data: bytes, at: int, seed: int) -> int | None:
    """Where the next good record begins."""
    while (at := data.find(_MARKER, at)) >= 0:
        size = _size_at(data, at, seed)
        if size is not None and at + size <= len(data) and _record_at(data, at, size, seed) is not None:
            return at
        at += 1
    return None


def _is_torn(data: bytes, at: int, size: int | None) -> bool:
    """Is this, at the very end, the beginning of a record, or space that was never written?"""
    if size is not None:
        return at + size > len(data)
    rest = data[at:]
    return _MARKER.startswith(rest[: len(_MARKER)]) if len(rest) < HEADER else not any(rest)


def encode_ack(first: int, last: int) -> bytes:
    """Says that the messages with these numbers, both included, are acked."""
    body = _ACK.pack(first, last)
    return body + _CRC.pack(zlib.crc32(body))


def decode_acks(data: bytes) -> list[tuple[int, int]]:
    """What a file of acks says.  Damaged entries are passed over: their messages are sent again."""
    acks = []
    for at in range(0, len(data) - ACK_SIZE + 1, ACK_SIZE):
        first, last = _ACK.unpack_from(data, at)
        (crc,) = _CRC.unpack_from(data, at + _ACK.size)
        if 0 < first <= last and crc == zlib.crc32(data[at : at + _ACK.size]):
            acks.append((first, last))
    return acks
