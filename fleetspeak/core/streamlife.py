"""The ages of a stream: open, closing (nothing is pushed any more), over.  Seconds of any monotonic clock."""

from __future__ import annotations

from enum import Enum


class StreamState(Enum):
    """What the server does with a stream."""

    OPEN = "open"
    CLOSING = "closing"
    """done_sending was said; records are still read and acknowledged."""
    OVER = "over"


class StreamLife:
    """One stream's time.  Closing begins `close_time` before its end."""

    __slots__ = ("_closing", "_over")

    def __init__(self, start: float, lifespan: float, close_time: float, jitter: float = 0.0) -> None:
        self._over = start + lifespan + jitter
        self._closing = max(start, self._over - close_time)

    def state(self, now: float) -> StreamState:
        """What it is now."""
        if now >= self._over:
            return StreamState.OVER
        return StreamState.CLOSING if now >= self._closing else StreamState.OPEN

    def next_change(self, now: float) -> float | None:
        """When that will be different; None if it never will."""
        if now >= self._over:
            return None
        return self._over if now >= self._closing else self._closing
