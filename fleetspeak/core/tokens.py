"""Flow control on the server: how many more messages each service of a client takes."""

from __future__ import annotations

from collections.abc import Mapping

_MOST = 2**64 - 1
"""Counters are unsigned 64 bit on the wire."""


class TokenLedger:
    """The tokens of one connection.  Off at first: then there is no limit per service."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: dict[str, int] | None = None

    def start(self, tokens: Mapping[str, int]) -> None:
        """The first contact's absolute numbers; an empty map leaves the accounting off."""
        if tokens:
            self._tokens = dict(tokens)

    def grant(self, tokens: Mapping[str, int]) -> bool:
        """Add a later record's increments, which switch the accounting on even if there are none.

        True if a service that had no tokens has some now: there may be messages for it.
        """
        held = self._tokens
        if held is None:
            held = self._tokens = {}
        opened = False
        for service, count in tokens.items():
            before = held.get(service, 0)
            held[service] = min(before + count, _MOST)
            opened = opened or (before == 0 and count > 0)
        return opened

    def limits(self) -> dict[str, int] | None:
        """What may be sent, by service; None: no accounting."""
        return None if self._tokens is None else dict(self._tokens)

    def spend(self, counts: Mapping[str, int]) -> None:
        """Messages were sent.  A service never has less than none."""
        if self._tokens is not None:
            for service, count in counts.items():
                self._tokens[service] = max(self._tokens.get(service, 0) - count, 0)
