"""When a daemon's process has to be killed, and when it is started again.  No I/O, no clock, no chance.

Times are seconds, on any clock; on Linux the monotonic one, which stands still while the machine sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleetspeak.core.backoff import jittered

SECOND_LOOK = 2.0
"""Seconds that a process gets once its silence was noticed (as in the Go client)."""

LATE = 1.0
"""A second look that comes so many seconds late shows that it was us, or the machine, that stood still."""

FIRST_DELAY = 1.0
"""Seconds until a process that ended soon after its start is started again; then doubled each time."""

LONGEST_DELAY = 300.0
"""Seconds; no more than this, but for the jitter."""

LONG_LIFE = 60.0
"""Seconds after which a process that ends is started again at once: the Go client's delay between two starts."""


def memory_exceeded(limit: int, rss: int) -> bool:
    """Does a process use as much memory as it must not?  Bytes; a limit of 0 is none."""
    return 0 < limit <= rss


@dataclass(frozen=True, slots=True)
class HeartbeatRules:
    """How long a process may be silent, in seconds."""

    grace: float
    """From the beginning until the first look."""
    kill: float
    """Since the last sign of life; more than 0."""


class HeartbeatWatch:
    """Notices that a process gives no sign of life.

    Its silence must be found twice, `SECOND_LOOK` seconds apart, and does not count while it cannot be heard.
    """

    def __init__(self, rules: HeartbeatRules, now: float) -> None:
        self._rules = rules
        self._last = now
        self._suspect = False
        self.deadline = now + rules.grace
        """When to `check`."""

    def heard(self, now: float) -> None:
        """It gave a sign of life."""
        self._last = max(self._last, now)

    def silence(self, now: float) -> float:
        """Seconds since it did."""
        return now - self._last

    def check(self, now: float, *, blocked: bool) -> bool:
        """Is it to be killed?  If not, `deadline` is when to check again.

        @param blocked: it may be held up, because there is no room for what it sends.
        """
        if now < self.deadline:
            return False
        late = now - self.deadline > LATE
        suspect, self._suspect = self._suspect, False
        if blocked:
            self.deadline = now + self._rules.kill
        elif now < self._last + self._rules.kill:
            self.deadline = self._last + self._rules.kill
        elif suspect and not late:
            return True
        else:
            self._suspect = True
            self.deadline = now + SECOND_LOOK
        return False


class RespawnSchedule:
    """Says when a process is started again, so that one that ends at once does not keep the machine busy.

    At once after a long life, or if it ended because the client wanted it to; otherwise after a delay that is doubled
    with each short life.
    """

    def __init__(
        self, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY, long_life: float = LONG_LIFE
    ) -> None:
        self._first = first
        self._longest = max(first, longest)
        self._long_life = long_life
        self._started = 0.0
        self._next = float("-inf")
        self.short_lives = 0
        """How many there were in a row."""

    def started(self, now: float) -> None:
        """A process was started, or is about to be."""
        self._started = now

    def ended(self, now: float, u: float, *, expected: bool = False) -> None:
        """It is gone, or could not be started.

        @param u: random, 0 <= u < 1; up to half of the delay is added, so that the services of a machine, and the
            machines of a fleet, do not all start at the same time.
        @param expected: the client ended it.
        """
        if expected or now - self._started >= self._long_life:
            self.short_lives = 0
            self._next = now
            return
        delay = min(self._longest, self._first * 2.0 ** min(self.short_lives, 63))
        self.short_lives += 1
        self._next = now + jittered(delay, u)

    def wait(self, now: float) -> float:
        """Seconds until the next start is allowed; 0: it is."""
        return max(0.0, self._next - now)
