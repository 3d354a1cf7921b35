"""When a polling client polls.  Times are seconds of any monotonic clock; `u` is random, 0 <= u < 1."""

from __future__ import annotations

import math

from fleetspeak.core.backoff import jittered

MAX_BYTES = 15 * 1024 * 1024
"""So many bytes held are sent at once."""

MAX_COUNT = 100
"""So many messages held are sent at once."""

FAST = 0.2
"""Seconds to the next poll right after activity; the wait grows by a tenth of the idle time."""


class PollSchedule:
    """When the next poll is due.  Each event fixes what follows from it, random part included, once."""

    def __init__(self, max_poll_delay: float, max_buffer_delay: float) -> None:
        self._max_poll_delay = max_poll_delay
        self._max_buffer_delay = max_buffer_delay
        self._activity: float | None = None
        self._idle_until = -math.inf
        self._held_until = math.inf
        self._full = False

    @property
    def due(self) -> float:
        """When to poll next; minus infinity: at once."""
        return -math.inf if self._full else min(self._idle_until, self._held_until)

    def succeeded(self, now: float, *, active: bool, u: float) -> None:
        """A poll went through; `active` if it brought a message, or took one that is not background."""
        if active:
            self._activity = now
        self._idle_until = now + jittered(self._max_poll_delay, u)
        if self._activity is not None:
            self._idle_until = min(self._idle_until, now + FAST + (now - self._activity) / 10)
        self._held_until = math.inf
        self._full = False

    def holding(self, now: float, count: int, size: int, u: float) -> None:
        """Messages are held, so many and of so many bytes, to be sent with the next poll."""
        if count and self._held_until == math.inf:
            self._held_until = now + jittered(self._max_buffer_delay, u)
        self._full = count >= MAX_COUNT or size >= MAX_BYTES
