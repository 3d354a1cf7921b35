"""Frames of the channel between the client and a service's process: magic { length body magic } ..."""

from __future__ import annotations

import struct

from google.protobuf.message import DecodeError

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.pb import common

MAGIC = b"\x01\x10\xee\xf1"
"""0xF1EE1001, little-endian."""

MAX_MESSAGE = 2 * 1024 * 1024
"""Bytes in one message; exactly so many are allowed."""

_LENGTH = struct.Struct("<I")
_MAGIC_NUMBER = _LENGTH.unpack(MAGIC)[0]


def encode(body: bytes) -> bytes:
    """Length, body and the magic number behind it.  Raises TooLarge."""
    if len(body) > MAX_MESSAGE:
        raise TooLarge(f"message of {len(body)} bytes, only {MAX_MESSAGE} allowed")
    return b"".join((_LENGTH.pack(len(body)), body, MAGIC))


def parse(body: bytes) -> common.Message:
    """The message that a body is.  Raises ProtocolError."""
    try:
        return common.Message.FromString(body)
    except DecodeError as error:
        raise ProtocolError(f"error parsing received message: {error}") from None


class Decoder:
    """Cuts one direction of a channel into message bodies, wherever the pipe cut it."""

    def __init__(self) -> None:
        self.awaiting = "magic"
        """What must come next, ``magic``, ``length`` or ``body``; each has a time limit of its own."""
        self._buffer = bytearray()
        self._size = 0
        self._body: bytes | None = None
        self._error: ProtocolError | None = None

    @property
    def held(self) -> int:
        """Bytes that came and belong to no body yet that was given."""
        return len(self._buffer) + len(self._body or b"")

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that `data` completes, each once the magic number behind it has come.

        Raises ProtocolError for a wrong magic number, TooLarge for a length over the limit, before it is kept.  If
        whole messages came before that in `data`, they are given first, and the next call raises.
        """
        self._raise_error()
        self._buffer += data
        bodies: list[bytes] = []
        try:
            while (part := self._take()) is not None:
                self._advance(part, bodies)
        except ProtocolError as error:
            self._error = error
            if not bodies:
                raise
        return bodies

    def finish(self) -> None:
        """The other side closed.  Raises ProtocolError unless a length was due, the orderly place to end."""
        self._raise_error()
        if self.awaiting == "magic" and not self._buffer:
            raise ProtocolError("error reading magic number: EOF")
        if self.awaiting != "length" or self._buffer:
            raise ProtocolError(f"the channel ended inside a {self.awaiting}")

    @property
    def needed(self) -> int:
        """Bytes until what is awaited is whole: who reads no more at a time than this never reads ahead."""
        return self._awaited_size - len(self._buffer)

    def _advance(self, part: bytes, bodies: list[bytes]) -> None:
        """Take what was awaited, and decide what is awaited next."""
        if self.awaiting == "magic":
            self._check_magic(part)
            if self._body is not None:
                bodies.append(self._body)
                self._body = None
            self.awaiting = "length"
        elif self.awaiting == "length":
            (self._size,) = _LENGTH.unpack(part)
            if self._size > MAX_MESSAGE:
                raise TooLarge(f"read unexpected size, want less than [{MAX_MESSAGE:x}], got [{self._size:x}]")
            self.awaiting = "body"
        else:
            self._body = part
            self.awaiting = "magic"

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    @property
    def _awaited_size(self) -> int:
        return self._size if self.awaiting == "body" else _LENGTH.size

    def _take(self) -> bytes | None:
        size = self._awaited_size
        if len(self._buffer) < size:
            return None
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    @staticmethod
    def _check_magic(part: bytes) -> None:
        if part != MAGIC:
            got = _LENGTH.unpack(part)[0]
            raise ProtocolError(f"read unexpected magic number, want [{_MAGIC_NUMBER:x}], got [{got:x}]")
