"""How much one record of a stream should hold, by how fast the line took the last big one."""

from __future__ import annotations

MOST = 15 * 1024 * 1024 // 2
"""Bytes in a record, whatever the line can do."""

LEAST = 256 * 1024
"""Bytes in a record, however slow the line is; and the size from which a write says something about the line."""

WRITE_TIME = 10.0
"""Seconds that no write should take longer than, about."""


class WriteRate:
    """Measures the writes of one connection."""

    def __init__(self) -> None:
        self._rate: float | None = None

    def wrote(self, size: int, seconds: float) -> None:
        """A record of `size` bytes was gone after so many seconds."""
        if size > LEAST and seconds > 0:
            self._rate = size / seconds

    def threshold(self) -> int:
        """Bytes after which a record is full."""
        if self._rate is None:
            return MOST
        return int(max(LEAST, min(MOST, self._rate * WRITE_TIME)))
