"""A client's account of what the server may send to each of its services: the AllowedMessages of its contacts."""

from __future__ import annotations

from dataclasses import dataclass

INBOX_SIZE = 100
"""Messages that wait for one service at most, and so the most tokens it can have out."""

BEACON_EVERY = 32
"""After so many processed messages of a service the server hears of the freed tokens, with a message or without."""


@dataclass(slots=True)
class _Counter:
    """The account of one service.

    Of the messages up to number `granted` the server has tokens; those up to `accepted` have come, those up to
    `processed` have left the inbox again.
    """

    accepted: int = 0
    processed: int = 0
    granted: int | None = None
    """None: the server was not told of this service on this connection."""
    listed: bool = True

    def grant_all(self) -> int:
        before = self.accepted
        self.granted = max(before, self.processed + INBOX_SIZE)
        return self.granted - before

    def grant_freed(self) -> int:
        if self.granted is None:
            return self.grant_all()
        before = max(self.granted, self.accepted)
        self.granted = max(before, self.processed + INBOX_SIZE)
        return self.granted - before


class FlowCounters:
    """Counts the messages of the server per service.

    Tokens that are out and messages in the inbox together never exceed `INBOX_SIZE` while the server keeps to its
    tokens, whatever services are removed, added or restarted.
    """

    def __init__(self) -> None:
        self._counters: dict[str, _Counter] = {}

    def add_service(self, name: str) -> None:
        """Begin to count, or go on where the counters stood: the server still holds the tokens it had."""
        self._counters.setdefault(name, _Counter()).listed = True

    def remove_service(self, name: str) -> None:
        """Name it no more; what was in its inbox is gone."""
        counter = self._counters.get(name)
        if counter is not None:
            counter.listed = False
            counter.processed = counter.accepted

    def accepted(self, name: str) -> None:
        """A message of the server went into the inbox of this service."""
        counter = self._counters.get(name)
        if counter is not None:
            counter.accepted += 1

    def processed(self, name: str) -> bool:
        """A message of the server left the inbox.  True: a beacon is due."""
        counter = self._counters.get(name)
        if counter is None or counter.processed >= counter.accepted:
            return False
        counter.processed += 1
        return counter.processed % BEACON_EVERY == 0

    def absolute(self) -> dict[str, int]:
        """For a poll, or the first record of a stream: all that may be sent.  Every service is in it, also with 0."""
        for counter in self._counters.values():
            counter.granted = None
        return {name: counter.grant_all() for name, counter in self._counters.items() if counter.listed}

    def increments(self) -> dict[str, int]:
        """For a later record of a stream: what may be sent beyond what was said before.  Every service is in it."""
        return {name: counter.grant_freed() for name, counter in self._counters.items() if counter.listed}
