"""Times one exchange of contact data."""

from __future__ import annotations

from fleetspeak.ids import ClientId
from fleetspeak.records import ClientPoll
from fleetspeak.server.stats import ServerStats

POLL = "POLL"
STREAM_START = "STREAM_START"
STREAM_FROM_CLIENT = "STREAM_FROM_CLIENT"
STREAM_TO_CLIENT = "STREAM_TO_CLIENT"


class PollMeter:
    """From the beginning of one exchange to its end, of which it tells, once; made only if somebody listens."""

    __slots__ = (
        "_began",
        "_cache_hit",
        "_client_id",
        "_read_bytes",
        "_read_seconds",
        "_stats",
        "_told",
        "_type",
        "_write_bytes",
        "_write_seconds",
    )

    def __init__(self, stats: ServerStats, poll_type: str, client_id: ClientId | None) -> None:
        """It begins now."""
        self._stats = stats
        self._type = poll_type
        self._client_id = client_id
        self._began = stats.seconds()
        self._read_seconds = self._write_seconds = 0.0
        self._read_bytes = self._write_bytes = 0
        self._cache_hit = self._told = False

    def read(self, size: int) -> None:
        """All that there is to read has been: so many bytes, after decompression."""
        self._read_bytes = size
        self._read_seconds = self._stats.seconds() - self._began

    def handled(self, cache_hit: bool) -> None:
        """What comes now is writing."""
        self._cache_hit = cache_hit
        self._write_seconds = -self._stats.seconds()

    def wrote(self, size: int) -> None:
        """It is written: so many bytes."""
        self._write_bytes = size
        self._write_seconds += self._stats.seconds()

    def finish(self, status: int) -> None:
        """Tell."""
        if self._told:
            return
        self._told = True
        self._stats.client_poll(
            ClientPoll(
                self._type,
                status,
                self._client_id,
                self._stats.seconds() - self._began,
                self._read_seconds,
                self._read_bytes,
                max(0.0, self._write_seconds),
                self._write_bytes,
                self._cache_hit,
            )
        )
