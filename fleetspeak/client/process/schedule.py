"""When a daemon's process is started again, and when it has been idle for too long.  No I/O, no clock.

Times are seconds, on any clock.
"""

from __future__ import annotations

RESPAWN_DELAY = 60.0
"""Seconds between two starts of a process, at least (as in the Go client)."""


class RespawnSchedule:
    """Keeps two starts of a process apart, so that one that ends at once does not keep the machine busy."""

    def __init__(self, delay: float = RESPAWN_DELAY) -> None:
        self._delay = delay
        self._next = float("-inf")

    def started(self, now: float) -> None:
        """A process was started, or could not be."""
        self._next = now + self._delay

    def wait(self, now: float) -> float:
        """Seconds until the next start is allowed; 0: it is."""
        return max(0.0, self._next - now)


class InactivityWatch:
    """Notices that nothing has happened for a while.  The start, and messages in both directions, are activity."""

    def __init__(self, timeout: float | None, now: float) -> None:
        """@param timeout: seconds; None: there is no limit."""
        self._timeout = timeout
        self._last = now

    def active(self, now: float) -> None:
        """Something happened."""
        self._last = now

    @property
    def deadline(self) -> float | None:
        """When `expired` will be true, unless something happens; None: never."""
        return None if self._timeout is None else self._last + self._timeout

    def expired(self, now: float) -> bool:
        """Has nothing happened for as long as the limit?"""
        return self.deadline is not None and now >= self.deadline
