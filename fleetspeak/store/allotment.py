"""What one claim may take of the due messages it is shown.  Overdue messages are claimed by the same rules."""

from __future__ import annotations

from fleetspeak.records import Claim

MAX_CLAIM_BYTES = 16 * 1024 * 1024
"""Most bytes of payload in one claim, unless a single message is larger: a contact has to hold them all, and
peers refuse contacts that are too large."""


class Allotment:
    """Decides on one due message after the other, in the order in which they are due to be taken."""

    def __init__(self, claim: Claim) -> None:
        self._tokens = None if claim.tokens is None else dict(claim.tokens)
        self._room = claim.limit
        self._bytes = MAX_CLAIM_BYTES
        self.refused: set[str] = set()
        """Services with due messages that get none, or none any more."""

    @property
    def has_room(self) -> bool:
        """Whether a further message might be taken, if it is not for a refused service."""
        return self._room > 0

    def take(self, service: str, size: int) -> bool:
        """Whether the next message, for `service` and with so many bytes of payload, is taken."""
        if self._room <= 0:
            return False
        if self._tokens is not None and self._tokens.get(service, 0) <= 0:
            self.refused.add(service)
            return False
        if size > self._bytes:
            if self._bytes < MAX_CLAIM_BYTES:
                self._room = 0
                return False
            size = self._bytes
        self._bytes -= size
        self._room -= 1
        if self._tokens is not None:
            self._tokens[service] -= 1
        return True

    def give_back(self, service: str, size: int) -> None:
        """What was taken has gone to somebody else; its room is free again."""
        self._bytes += min(size, MAX_CLAIM_BYTES)
        self._room += 1
        if self._tokens is not None:
            self._tokens[service] += 1
            self.refused.discard(service)
