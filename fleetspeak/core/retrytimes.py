"""When a message that was given out is due again (exact: both sides of a mixed fleet share the database)."""

from __future__ import annotations

MINUTE_NS = 60 * 10**9

CLIENT_RETRY_NS = 15 * MINUTE_NS
"""A client that has not confirmed a message gets it again after this long."""

SERVER_RETRY_NS = MINUTE_NS
SERVER_RETRY_GROWTH = 1.1
MAX_BASE_NS = 12 * 60 * MINUTE_NS
"""Ours: the growth ends at half a day, so that with its random part a retry is at most a day away."""

_ENOUGH = 1000
"""Retries by which the growth has ended for certain; a power beyond it would overflow a float."""


def client_retry(now_ns: int) -> int:
    """When (ns) a message that goes to its client now is due again."""
    return now_ns + CLIENT_RETRY_NS


def server_retry(now_ns: int, count: int, u: float) -> int:
    """When (ns) a message for a server service is due that was handed out `count` times; 0 <= `u` < 1 at random."""
    base = min(SERVER_RETRY_NS * SERVER_RETRY_GROWTH ** min(count, _ENOUGH), MAX_BASE_NS)
    return now_ns + int(base * (1 + u))
