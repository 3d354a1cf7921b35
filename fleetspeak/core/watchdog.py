"""When a client that makes no more attempts at contact counts as wedged.  Seconds of any monotonic clock."""

from __future__ import annotations

MIN_LIMIT = 3600.0
"""Upstream's limit for every client, whatever its delays are."""

GRACE = 5.0
"""Granted when the limit is found to be over: a machine that wakes up from suspend, or a process that was stopped,
finds all its timers late at once, and gets the chance to act on them.  Upstream's figure."""

_MULTIPLE = 2
"""How many of the longest gaps there can be between two attempts must pass."""

_JITTER = 1.5
"""Delays are spread over once to so many times what is configured."""


def limit_for(delays: list[float], longest_attempt: float) -> float:
    """How long a client may go without an attempt at contact.

    @param delays: what the configuration makes it wait between attempts, in seconds.
    @param longest_attempt: seconds that one attempt, or what it leads to, may take.
    """
    return max(MIN_LIMIT, _MULTIPLE * (_JITTER * max(delays, default=0.0) + longest_attempt))


class Watchdog:
    """Expires when it was not reset for `limit` seconds, and not for `grace` seconds after that was noticed."""

    def __init__(self, limit: float, now: float, grace: float = GRACE) -> None:
        self._limit = limit
        self._grace = grace
        self._reset = now
        self._noticed: tuple[float, float] | None = None
        """Which reset is over, and when that was noticed."""

    def reset(self, now: float) -> None:
        """There was an attempt.  Only assigns, so that it may be called in another thread than `check`."""
        self._reset = now

    def idle(self, now: float) -> float:
        """Seconds since the last attempt."""
        return now - self._reset

    def check(self, now: float) -> float:
        """In how many seconds to check again; 0.0 if it has expired."""
        reset = self._reset
        left = reset + self._limit - now
        if left > 0:
            self._noticed = None
            return left
        if self._noticed is None or self._noticed[0] != reset:
            self._noticed = (reset, now)
        return max(0.0, self._noticed[1] + self._grace - now)
