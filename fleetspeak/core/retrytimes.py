"""When a message that is not confirmed, or not processed, is tried again.  All times in nanoseconds."""

from __future__ import annotations

SECOND = 1_000_000_000

CLIENT_RETRY = 15 * 60 * SECOND
"""A message sent to a client is offered again after this, until it is confirmed."""

SERVER_RETRY = 60 * SECOND
"""Base of the delay after which a server service gets a message again."""

SERVER_RETRY_GROWTH = 1.1
SERVER_RETRY_CAP = 24 * 60 * 60 * SECOND
"""Ours: upstream's delay grows without bound."""

_CAPPED_FROM = 77
"""1 min * 1.1^77 is over a day; the power is not computed beyond that."""


def client_retry(now_ns: int) -> int:
    """When a message that is sent to a client now is due again."""
    return now_ns + CLIENT_RETRY


def server_retry(now_ns: int, count: int, u: float) -> int:
    """When a server service gets a message again that it was offered `count` times; 0 <= `u` < 1 is random."""
    delay = SERVER_RETRY * SERVER_RETRY_GROWTH ** min(count, _CAPPED_FROM) * (1 + u)
    return now_ns + min(int(delay), SERVER_RETRY_CAP)
