"""Values in the text of a MySQL statement.

Bytes and texts are written in hexadecimal, so nothing is ever escaped, and no setting of a session can change what a
statement means.  That is also the quickest way for Python to write them.  Large ones are written in base 64, which is
shorter, since a statement must fit into a packet.
"""

from __future__ import annotations

import math
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

LARGE = 64 * 1024
"""Bytes from which on a value is written in base 64."""


class Unfit(Exception):
    """A value that no column could hold."""


def statement(sql: str, parameters: Sequence[Any]) -> bytes:
    """`sql` with its ``?`` replaced by `parameters`.  Raises Unfit."""
    parts = sql.split("?")
    if len(parts) != len(parameters) + 1:
        raise TypeError(f"{len(parameters)} parameters for {len(parts) - 1} places in {sql[:200]}")
    try:
        values = [_WRITERS[type(value)](value) for value in parameters]
    except UnicodeEncodeError as error:
        raise Unfit(f"a text is not Unicode: {error.reason}") from None
    return "".join(chain.from_iterable(zip(parts, [*values, ""], strict=True))).encode("ascii")


def _bytes(value: bytes) -> str:
    if len(value) < LARGE:
        return f"X'{value.hex()}'"
    return f"FROM_BASE64('{b2a_base64(value, newline=False).decode('ascii')}')"


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise Unfit(f"{value} is not a number")
    text = repr(value)
    return text if "e" in text else f"{text}e0"  # without an exponent it would be a decimal


_WRITERS: dict[type, Callable[[Any], str]] = {
    bytes: _bytes,
    str: lambda value: f"_utf8mb4 X'{value.encode().hex()}'",
    int: str,
    bool: lambda value: "1" if value else "0",
    float: _float,
    type(None): lambda _: "NULL",
}
