"""A server's account of how many messages a client will take for each of its services."""

from __future__ import annotations

from collections.abc import Mapping

MAX_TOKENS = 2**64 - 1
"""Counters are unsigned 64 bit on the wire; they stop here instead of wrapping around."""

MAX_SERVICES = 1024
"""Ours: a client that names more services gets no tokens for the others."""

MAX_NAME = 128
"""Bytes or characters of a service name, as the database's columns hold them; longer ones are passed over."""


class TokenLedger:
    """The tokens of one connection.  Without accounting, which is how it begins, there is no limit."""

    __slots__ = ("_offered", "_tokens")

    def __init__(self) -> None:
        self._tokens: dict[str, int] | None = None
        self._offered: dict[str, int] = {}

    def start(self, tokens: Mapping[str, int]) -> None:
        """The first contact's AllowedMessages; an empty map leaves accounting off."""
        if tokens:
            self._tokens = {}
            self._add(tokens)

    def grant(self, tokens: Mapping[str, int]) -> bool:
        """A later record's AllowedMessages; accounting is on from now, even if the map is empty.

        Returns True if a service that had none has tokens now, so that messages may be waiting for them.  Tokens
        that were offered count as none until `spend`: they may all be on their way out.
        """
        if self._tokens is None:
            self._tokens = {}
        return self._add(tokens)

    def limits(self) -> dict[str, int] | None:
        """Tokens by service, those with none left out; None without accounting."""
        if self._tokens is None:
            return None
        return {service: tokens for service, tokens in self._tokens.items() if tokens}

    def offer(self) -> dict[str, int] | None:
        """The limits of a claim that begins now; `spend` ends it."""
        limits = self.limits()
        self._offered = limits or {}
        return limits

    def spend(self, counts: Mapping[str, int]) -> None:
        """So many messages were sent to these services; never goes below zero."""
        self._offered = {}
        if self._tokens is None:
            return
        for service, count in counts.items():
            tokens = self._tokens.get(service)
            if tokens is not None:
                self._tokens[service] = max(0, tokens - count)

    def _add(self, tokens: Mapping[str, int]) -> bool:
        assert self._tokens is not None
        woken = False
        for service, count in tokens.items():
            before = self._tokens.get(service)
            if before is None:
                if len(self._tokens) >= MAX_SERVICES or len(service) > MAX_NAME:
                    continue
                before = 0
            self._tokens[service] = min(MAX_TOKENS, before + count)
            woken = woken or (count > 0 and before <= self._offered.get(service, 0))
        return woken
