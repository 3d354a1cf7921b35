"""When a client that lost its stream tries again: soon, but not all of a fleet at once.  Seconds everywhere."""

from __future__ import annotations

from fleetspeak.core.backoff import full_jitter, jittered

SPREAD = 20.0
"""The most to wait before the first attempt after a stream, doubled with each failure.

When a server with 50,000 streams restarts, 2,500 clients a second come back to it, and those for which it has no time
come back over twice and four times as long.
"""

NORMAL_LIFE = 540.0
"""A stream that is announced to end when it is so old, ends for its age: upstream's server does that after 570 s.

Streams began at different times, and so do their ends: the next one can follow at once.  A younger one is ended
because the server stops, and so are those of all others.
"""

SHORT = 10.0
"""A stream that ended sooner, unannounced, counts as a failure of its server."""

SHORT_ANNOUNCED = 1.0
"""So does one that was announced to end as soon as it had begun."""


class Reconnects:
    """Counts failures since a stream last lived for a while.  `u` is random, 0 <= u < 1."""

    def __init__(self, failure_delay: float, end_of_life: float) -> None:
        """@param failure_delay: what to wait, times 1.0 to 1.5, when no server can be had.

        @param end_of_life: how old a stream becomes before we end it.
        """
        self._failure_delay = failure_delay
        self._end_of_life = end_of_life
        self._had_stream = False
        self._failures = 0

    def forgive(self) -> None:
        """Whatever was, the next attempt is the first one."""
        self._failures = 0

    def after_stream(self, lived: float, announced: bool, u: float) -> float:
        """How long to wait after a stream of so many seconds, whose end the server announced or not."""
        self._had_stream = True
        if lived >= (SHORT_ANNOUNCED if announced else SHORT):
            self._failures = 0
        if lived >= (NORMAL_LIFE if announced else self._end_of_life):
            return 0.0
        return self._growing(u)

    def after_failure(self, u: float) -> float:
        """How long to wait when no server gave a stream.

        Of a client that had one, the first attempts come sooner than the configured delay, for as long as what they
        grow to is less.
        """
        if self._had_stream and SPREAD * 2.0**self._failures < self._failure_delay:
            return self._growing(u)
        return jittered(self._failure_delay, u)

    def _growing(self, u: float) -> float:
        delay = full_jitter(SPREAD, self._failure_delay, self._failures, u)
        self._failures = min(self._failures + 1, 63)
        return delay
