"""When a daemon's process has been idle for too long.  No I/O, no clock.

Times are seconds, on any clock.
"""

from __future__ import annotations


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
