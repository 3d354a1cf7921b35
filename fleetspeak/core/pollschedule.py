"""When a polling client polls.  Times are seconds of any monotonic clock; `u` is random, 0 <= u < 1."""

from __future__ import annotations

from fleetspeak.core.backoff import jittered

MAX_BYTES = 15 * 1024 * 1024
"""So many bytes held are sent at once."""

MAX_COUNT = 100
"""So many messages held are sent at once."""

FAST = 0.2
"""Seconds to the next poll right after activity; the wait grows by a tenth of the idle time."""


class PollSchedule:
    """What happened so far, and what follows from it for the next poll."""

    def __init__(self, max_poll_delay: float, max_buffer_delay: float) -> None:
        self._max_poll_delay = max_poll_delay
        self._max_buffer_delay = max_buffer_delay
        self._success: float | None = None
        self._activity: float | None = None
        self._held_since: float | None = None
        self._full = False

    def succeeded(self, now: float, *, active: bool) -> None:
        """A poll went through; `active` if it brought a message, or took one that is not background."""
        self._success = now
        if active:
            self._activity = now
        self._held_since = None
        self._full = False

    def holding(self, now: float, count: int, size: int) -> None:
        """Messages are held, so many and of so many bytes, to be sent with the next poll."""
        if count and self._held_since is None:
            self._held_since = now
        self._full = count >= MAX_COUNT or size >= MAX_BYTES

    def deadline(self, now: float, u: float) -> float:
        """When to poll next; `now` or earlier means at once."""
        if self._success is None or self._full:
            return now
        deadline = self._success + jittered(self._max_poll_delay, u)
        if self._activity is not None:
            deadline = min(deadline, self._success + FAST + (now - self._activity) / 10)
        if self._held_since is not None:
            deadline = min(deadline, self._held_since + jittered(self._max_buffer_delay, u))
        return deadline
