"""Unsigned base-128 varints, as protobuf has them."""

from __future__ import annotations

from fleetspeak.errors import ProtocolError

MAX_SIZE = 10
"""Bytes of the longest varint: 64 bits, seven in each."""

_MAX_VALUE = 2**64 - 1


def encode(value: int) -> bytes:
    """Encode 0 <= `value` < 2**64.  Raises ValueError outside of that."""
    if not 0 <= value <= _MAX_VALUE:
        raise ValueError(f"not an unsigned 64 bit number: {value}")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode(buffer: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """The value at `offset`, and the offset behind it; None if more bytes are needed.

    Raises ProtocolError if it is longer than 10 bytes or has more than 64 bits.
    """
    value = shift = 0
    for position in range(offset, min(len(buffer), offset + MAX_SIZE)):
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MAX_VALUE:
                raise ProtocolError("varint of more than 64 bits")
            return value, position + 1
        shift += 7
    if len(buffer) - offset >= MAX_SIZE:
        raise ProtocolError(f"varint of more than {MAX_SIZE} bytes")
    return None
