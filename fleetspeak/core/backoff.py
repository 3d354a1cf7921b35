"""How long to wait before trying again.  `u` is random, 0 <= u < 1; seconds everywhere."""

from __future__ import annotations


def jittered(seconds: float, u: float) -> float:
    """`seconds` times 1.0 to 1.5, as upstream's clients spread their polls and retries."""
    return seconds * (1 + u / 2)


def full_jitter(base: float, cap: float, attempt: int, u: float) -> float:
    """Anywhere from 0 to base * 2^attempt, at most `cap`: no two clients of a fleet march in step.

    `attempt` counts from 0.
    """
    return u * min(cap, base * 2.0 ** min(attempt, 63))
