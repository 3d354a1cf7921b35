"""How long a client has been without a server, and when that is too long.  Seconds of any monotonic clock."""

from __future__ import annotations


class Loneliness:
    """Counts from the start, and then from the last contact."""

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._since = now

    def contacted(self, now: float) -> None:
        """There was a contact."""
        self._since = now

    def verdict(self, now: float) -> str | None:
        """Why the client shall end; None if it shall not."""
        alone = now - self._since
        if alone <= self._limit:
            return None
        return f"Too Lonely! Failed to contact server in {alone:.0f} s."
