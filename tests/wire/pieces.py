"""Bytes as a network delivers them: cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` in pieces, cut at these places (taken modulo its length)."""
    places = sorted({place % (len(data) + 1) for place in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


CUTS = st.lists(st.integers(0, 2**16), max_size=12)
