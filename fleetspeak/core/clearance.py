"""From where on a look for overdue messages has to begin, while services without room have many.

Their messages stay due, so each look would have to go past all of them.  But what was due for the others has been taken
by then: it is enough to look at what has become due since.
"""

from __future__ import annotations

from collections.abc import Set

MARGIN_NS = 5 * 10**9
"""Clocks of servers that share a database may differ by so much."""

RESCAN = 60.0
"""Seconds after which everything is looked at again, whatever was believed."""

SLOW_LOOK = 0.1
LOOKING_SHARE = 9
"""A look from the beginning that took more seconds than this is followed by a time without another one that is so many
times longer: however much waits, a tenth of the time is enough for looking."""


class Clearance:
    """What is known to be taken: everything due up to a time, but for some services."""

    def __init__(self) -> None:
        self._until_ns = 0
        self._without: Set[str] = frozenset()
        """Services of which there may be more, because they had no room."""
        self._next_scan = self._rescan = float("-inf")

    def since(self, full: Set[str], seconds: float) -> int:
        """When (ns) messages must have become due to be looked for now; 0: whenever.

        @param full: the services that have no room.
        @param seconds: of a steady clock.
        """
        if not full:
            return 0  # the oldest are first, and are taken
        if seconds < self._next_scan:
            return self._until_ns
        return self._until_ns if full >= self._without and seconds < self._rescan else 0

    def note(self, full: Set[str], since_ns: int, began_ns: int, seconds: float, took: float, found: bool) -> None:
        """A look has ended.

        @param since_ns: what `since` gave for it.
        @param began_ns: when it began, by the clock of due times.
        @param took: how many seconds it took.
        @param found: whether there was anything.
        """
        if full and not since_ns:
            if took > SLOW_LOOK:
                self._next_scan = seconds + LOOKING_SHARE * took
            if not found:
                self._rescan = seconds + max(RESCAN, LOOKING_SHARE * took)
        if not found:
            self._without = frozenset(full) if not since_ns else frozenset(full) | self._without
            self._until_ns = max(began_ns - MARGIN_NS, 0)
