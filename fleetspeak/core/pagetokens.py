"""Page tokens: where the next page of a list begins, as an opaque text.  No I/O.

A token is a key of the list and a fingerprint of what was asked; it comes back from the other side, so anything may
be in it.  It gives nobody more than a request without one does, and is therefore neither signed nor encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

Part = int | bytes | str

FINGERPRINT_SIZE = 8
MAX_TOKEN = 4096
"""Characters: far more than any key has."""

_INTEGER = 8
"""Bytes of an integer, and of a length."""


def fingerprint(request: bytes) -> bytes:
    """Of what was asked, without its page."""
    return hashlib.sha256(request).digest()[:FINGERPRINT_SIZE]


def encode(mark: bytes, key: Sequence[Part]) -> str:
    """The token for what lies behind `key`; `mark` is a fingerprint.  Integers must have 64 bits with their sign."""
    body = bytearray(mark)
    for part in key:
        if isinstance(part, int):
            body += part.to_bytes(_INTEGER, "big", signed=True)
        else:
            raw = part.encode() if isinstance(part, str) else part
            body += len(raw).to_bytes(_INTEGER, "big") + raw
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def decode(mark: bytes, token: str, kinds: Sequence[type[Part]]) -> tuple[Part, ...]:
    """The key in a token that was made for the same fingerprint.  Raises ValueError for any other text.

    @param kinds: the types of the key's parts.
    """
    if len(token) > MAX_TOKEN:
        raise ValueError("page_token is too long")
    try:
        body = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("page_token is none of this server's") from None
    if body[:FINGERPRINT_SIZE] != mark:
        raise ValueError("page_token belongs to another request")
    reader = _Reader(body[FINGERPRINT_SIZE:])
    try:
        key = tuple(reader.part(kind) for kind in kinds)
    except UnicodeDecodeError:
        raise ValueError("page_token is damaged") from None
    if reader.left or encode(mark, key) != token:
        raise ValueError("page_token is damaged")
    return key


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.left = body

    def part(self, kind: type[Part]) -> Part:
        if kind is int:
            return int.from_bytes(self._take(_INTEGER), "big", signed=True)
        raw = self._take(int.from_bytes(self._take(_INTEGER), "big"))
        return raw.decode() if kind is str else raw

    def _take(self, size: int) -> bytes:
        if size > len(self.left):
            raise ValueError("page_token is damaged")
        taken, self.left = self.left[:size], self.left[size:]
        return taken
