"""Keeps lines that a fleet could cause by the thousand from filling the log."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime


class SparseLog:
    """Says when a line is due: at most one per `interval` seconds, the first one at once."""

    def __init__(self, clock: IReactorTime, interval: float) -> None:
        self._clock = clock
        self._interval = interval
        self._next = float("-inf")
        self._held_back = 0

    def due(self) -> bool:
        """Count one occurrence.  True: write the line now, with `take_held_back` in it."""
        now = self._clock.seconds()
        if now < self._next:
            self._held_back += 1
            return False
        self._next = now + self._interval
        return True

    def take_held_back(self) -> int:
        """How many lines were held back since the last one that was written."""
        count, self._held_back = self._held_back, 0
        return count
