"""When a process's use of the machine is sampled, and what samples come to.  No I/O, no clock.

Units are those of `fleetspeak.monitoring.AggregatedResourceUsage`: milliseconds of CPU per second, and bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fleetspeak.errors import ConfigError, FleetspeakError
from fleetspeak.pb import monitoring

DEFAULT_SIZE = 20
"""Samples in a report (as in the Go client)."""

DEFAULT_PERIOD = 30.0
"""Seconds between two samples (as in the Go client)."""

SHORTEST_PERIOD = 0.01
"""Seconds; a configuration that asks for less gets this, so that the client has time for other things."""

FIRST_WAIT = 1.0
"""Seconds until the first sample; the next waits are doubled until they have reached the period."""

CPU_TOLERANCE = 1e-4
"""Milliseconds by which a CPU time may seem to go back."""


class UsageError(FleetspeakError):
    """Samples of which no rate can be computed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process had used at one moment."""

    time: float
    """Seconds, on a clock that nobody sets."""
    user_cpu_ms: float
    """Its own, and that of its children which it has waited for."""
    system_cpu_ms: float
    rss: int
    """Bytes of resident memory."""
    fds: int
    """Open file descriptors; 0 if that cannot be found out."""


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """How often samples are taken, and how many go into one report."""

    size: int = DEFAULT_SIZE
    """At least 2, because a rate takes two."""
    period: float = DEFAULT_PERIOD
    """Seconds."""


def sampling_rules(size: int, period: float) -> SamplingRules:
    """The rules of a configuration, where 0 stands for the default.  Raises ConfigError."""
    rules = SamplingRules(size or DEFAULT_SIZE, max(SHORTEST_PERIOD, period) if period > 0 else DEFAULT_PERIOD)
    if rules.size < 2:
        raise ConfigError(
            f"sample size {size} invalid - must be at least 2 (for rate computation), "
            f"or 0 for the default of {DEFAULT_SIZE}"
        )
    return rules


def aggregate(samples: Sequence[Sample]) -> monitoring.AggregatedResourceUsage:
    """Means and maxima of at least two samples, the oldest first.  Raises UsageError."""
    if len(samples) < 2:
        raise UsageError(f"{len(samples)} samples are too few for a rate")
    user, system = [], []
    for before, after in pairwise(samples):
        seconds = after.time - before.time
        if not seconds > 0:
            raise UsageError(f"the clock went from {before.time:.6f} to {after.time:.6f}")
        user.append(_rate("user", before.user_cpu_ms, after.user_cpu_ms, seconds))
        system.append(_rate("system", before.system_cpu_ms, after.system_cpu_ms, seconds))
    return monitoring.AggregatedResourceUsage(
        mean_user_cpu_rate=sum(user) / len(user),
        max_user_cpu_rate=max(user),
        mean_system_cpu_rate=sum(system) / len(system),
        max_system_cpu_rate=max(system),
        mean_resident_memory=sum(sample.rss for sample in samples) / len(samples),
        max_resident_memory=max(sample.rss for sample in samples),
        mean_num_fds=sum(sample.fds for sample in samples) / len(samples),
        max_num_fds=max(sample.fds for sample in samples),
    )


def _rate(name: str, before: float, after: float, seconds: float) -> float:
    if after < before - CPU_TOLERANCE:
        raise UsageError(f"the {name} CPU time went from {before:g} to {after:g} ms")
    return (after - before) / seconds


class UsageMeter:
    """Says when to take the samples of one process, and makes reports of them.

    The first samples are closer together, so that a process which lives for seconds only is seen as well; they go
    into a first report that has more of them.  No rate reaches from one report into the next.
    """

    def __init__(self, rules: SamplingRules) -> None:
        self._rules = rules
        self._wait = min(FIRST_WAIT, rules.period)
        self._wanted = rules.size + (math.floor(math.log2(int(rules.period))) if rules.period >= 1 else 0)
        self._samples: list[Sample] = []

    def next_wait(self) -> float:
        """Seconds until the next sample, counted from the last one, or from the start."""
        wait = self._wait
        self._wait = min(2 * wait, self._rules.period)
        return wait

    def add(self, sample: Sample) -> monitoring.AggregatedResourceUsage | None:
        """Take a sample.

        @return: the report that it completes.
        @raise UsageError: it does not go with the one before it; both are forgotten with all others.
        """
        self._samples.append(sample)
        try:
            if len(self._samples) > 1:
                aggregate(self._samples[-2:])
            if len(self._samples) < self._wanted:
                return None
            report = aggregate(self._samples)
        except UsageError:
            self.restart()
            raise
        self.restart()
        return report

    def restart(self) -> None:
        """Forget the samples so far, because the next one does not go with them."""
        self._samples = []
        self._wanted = self._rules.size
