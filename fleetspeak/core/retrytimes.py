"""When a message that was given out is due again (exact: both sides of a mixed fleet share the database), and when it
is given up."""

from __future__ import annotations

from fleetspeak.records import DAY_NS, NO_LIMITS, RetryLimits

MINUTE_NS = 60 * 10**9

CLIENT_RETRY_NS = 15 * MINUTE_NS
"""A client that has not confirmed a message gets it again after this long."""

SERVER_RETRY_NS = MINUTE_NS
SERVER_RETRY_GROWTH = 1.1

DEAD = "expired: "
"""How the failed_reason of every dead letter begins; scripts may count on it."""

_ENOUGH = 1000
"""Retries by which the growth has ended for certain; a power beyond it would overflow a float."""


def client_retry(now_ns: int) -> int:
    """When (ns) a message that goes to its client now is due again."""
    return now_ns + CLIENT_RETRY_NS


def server_retry(now_ns: int, count: int, u: float, max_delay_ns: int = DAY_NS) -> int:
    """When (ns) a message for a server service is due that was handed out `count` times; 0 <= `u` < 1 at random.

    The growth ends at half of `max_delay_ns`, so that with its random part a retry is never further away than that.
    """
    base = min(SERVER_RETRY_NS * SERVER_RETRY_GROWTH ** min(count, _ENOUGH), max_delay_ns / 2)
    return now_ns + int(base * (1 + u))


def next_try(now_ns: int, created_ns: int, count: int, u: float, limits: RetryLimits = NO_LIMITS) -> int:
    """The same for a message that is handed out now, for the `count`-th time by the backlog.

    If it is the last time, or the message expires before its next one, the message is due when that can be told: one
    that is given up does not look as if it was waiting for a day.
    """
    due = server_retry(now_ns, count, u, limits.max_delay_ns)
    if limits.max_attempts is not None and count + 1 >= limits.max_attempts:
        due = min(due, server_retry(now_ns, 0, u))
    if limits.max_age_ns is not None:
        due = min(due, max(created_ns + limits.max_age_ns, server_retry(now_ns, 0, u)))
    return due


def given_up(now_ns: int, created_ns: int, count: int, limits: RetryLimits) -> str | None:
    """Why a message that is due is not tried any more; None: it is.

    @param count: how often the backlog has handed it out; it was tried once before that.
    """
    attempts, age_ns = count + 1, max(now_ns - created_ns, 0)
    too_many = limits.max_attempts is not None and attempts >= limits.max_attempts
    too_old = limits.max_age_ns is not None and age_ns >= limits.max_age_ns and count > 0
    if not too_many and not too_old:
        return None
    tries = f"{attempts} attempt{'' if attempts == 1 else 's'}"
    return f"{DEAD}given up after {tries}, {age_ns // 10**9} s after its creation"
