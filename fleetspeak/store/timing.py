"""The time of a store, and the due times it gives to messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleetspeak.core import retrytimes
from fleetspeak.records import RetryLimits

_SECOND = 10**9

NEVER_DUE = 2**63 - 1
"""The ``scheduled_time`` (µs) of a dead letter: a message for a server service that has a failed result, and still its
payload.  No server of any kind takes it for due."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Clock and chance, as they were given to the store.  Both may be called in any thread.

    Due times are whole microseconds, since that is what the column ``scheduled_time`` holds.
    """

    now_ns: Callable[[], int]
    """Nanoseconds since the Unix epoch."""
    uniform: Callable[[], float]
    """A random number, 0 <= u < 1."""

    def first_due(self, now_ns: int, for_server: bool) -> int:
        """When a message that is stored now is due: at once for a client, after the first retry time for a service."""
        if for_server:
            return retrytimes.server_retry(now_ns, 0, self.uniform()) // 1000
        return now_ns // 1000

    def server_due(self, now_ns: int, created_ns: int, count: int, limits: RetryLimits) -> int:
        """When a message for a server service is due again that was handed out `count` times, this time included."""
        return retrytimes.next_try(now_ns, created_ns, count, self.uniform(), limits) // 1000

    def client_due(self, now_ns: int) -> int:
        """When a message is due again that is given to its client now."""
        return retrytimes.client_retry(now_ns) // 1000


def modified_after(before_ns: int | None, now_ns: int) -> int:
    """The time of a file that replaces one of the time `before_ns`, both ns.

    It lies in a later second: HTTP tells files apart by their seconds, so a client that has the one must not be told
    that it has the other.
    """
    return now_ns if before_ns is None else max(now_ns, (before_ns // _SECOND + 1) * _SECOND)
