"""How long messages for server services are tried, as options say it."""

from __future__ import annotations

import math

from fleetspeak.errors import ConfigError
from fleetspeak.records import MIN_RETRY_DELAY_NS, NO_LIMITS, RetryLimits

DEFAULT_MAX_DELAY = NO_LIMITS.max_delay_ns / 1e9
"""Seconds between two tries, at most."""

_MIN_DELAY = MIN_RETRY_DELAY_NS / 1e9
_MOST = 100 * 365 * 24 * 60 * 60.0
"""Seconds; more could not be told in nanoseconds of 64 bits."""


def retry_limits(max_delay: float, max_age: float | None, max_attempts: int | None) -> RetryLimits:
    """The limits in these options, in seconds; None: none.  Raises ConfigError."""
    if not _MIN_DELAY <= max_delay <= _MOST:
        raise ConfigError(
            f"--retry-max-delay must be {_MIN_DELAY:.0f} seconds at least, not {max_delay:g}: "
            "the first try again comes after one to two minutes"
        )
    if max_age is not None and not 0 < max_age <= _MOST:
        raise ConfigError(f"--retry-max-age must be more than 0 seconds, not {max_age:g}; leave it out for no limit")
    if max_attempts is not None and max_attempts < 2:
        raise ConfigError(f"--retry-max-attempts must be 2 at least, not {max_attempts}; leave it out for no limit")
    return RetryLimits(round(max_delay * 1e9), None if max_age is None else math.ceil(max_age * 1e9), max_attempts)
