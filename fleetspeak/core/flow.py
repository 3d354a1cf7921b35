"""Flow control on the client: how many more messages the server may send to each service."""

from __future__ import annotations

from dataclasses import dataclass

INBOX_SIZE = 100
"""Messages that a service's inbox holds, and so the most that is ever granted."""

BEACON_EVERY = 32
"""The server is told of freed room at the latest when a service has taken so many messages."""


@dataclass(slots=True)
class _Counters:
    accepted: int = 0
    """Messages put into the inbox."""
    processed: int = 0
    """Messages taken out of it."""
    announced: int = 0
    """`processed` as of the last record; the server knows of so many."""
    known: bool = False
    """Was the service in a record already?"""
    installed: bool = True


class FlowCounters:
    """Counters of every service.  They outlive a service's restart, so that a grant never exceeds the inbox."""

    def __init__(self) -> None:
        self._services: dict[str, _Counters] = {}

    def add_service(self, name: str) -> None:
        """Installed, for the first time or again."""
        counters = self._services.setdefault(name, _Counters())
        counters.installed = True

    def remove_service(self, name: str) -> None:
        """Gone: it is granted nothing until it is installed again.  What its inbox held is gone with it."""
        if (counters := self._services.get(name)) is not None:
            counters.installed = False
            counters.processed = counters.accepted

    def accepted(self, name: str) -> None:
        """A message went into the inbox."""
        self._services[name].accepted += 1

    def processed(self, name: str) -> bool:
        """A message was taken out of the inbox.  True if the server should hear of it even without a message."""
        counters = self._services[name]
        counters.processed = min(counters.processed + 1, counters.accepted)
        return counters.processed % BEACON_EVERY == 0

    def absolute(self) -> dict[str, int]:
        """The room in each inbox, for a poll or the first record of a stream."""
        return {name: self._room(counters) for name, counters in self._installed()}

    def increments(self) -> dict[str, int]:
        """The room that came since the previous record of this stream; for a service new to it, all its room."""
        return {
            name: self._freed(counters) if counters.known else self._room(counters)
            for name, counters in self._installed()
        }

    def _installed(self) -> list[tuple[str, _Counters]]:
        return [(name, counters) for name, counters in self._services.items() if counters.installed]

    @staticmethod
    def _room(counters: _Counters) -> int:
        counters.known = True
        counters.announced = counters.processed
        return max(INBOX_SIZE - (counters.accepted - counters.processed), 0)

    @staticmethod
    def _freed(counters: _Counters) -> int:
        freed = counters.processed - counters.announced
        counters.announced = counters.processed
        return min(max(freed, 0), INBOX_SIZE)
