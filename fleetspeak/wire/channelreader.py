"""What comes from the other end of a channel, and how long that may take.  No I/O, no clock; for both ends."""

from __future__ import annotations

from fleetspeak.errors import ProtocolError
from fleetspeak.wire import channelframes

READ_LIMIT = 300.0
"""Seconds until a magic number that is due, or the body of a message, must be there (as in the Go client)."""


class ChannelReader:
    """Cuts the messages out of what the peer writes, and watches that it goes on with what it began.

    Between two messages a peer may be silent for as long as it likes.  Times are seconds, on any clock.
    """

    def __init__(self, now: float, read_limit: float = READ_LIMIT) -> None:
        self.opened = False
        """The peer has sent its first magic number: it may be written to."""
        self._read_limit = read_limit
        self._decoder = channelframes.Decoder()
        self._since = now
        self._fed = 0

    def feed(self, data: bytes, now: float) -> list[bytes]:
        """The bodies of the messages that `data` completes.  Raises ProtocolError."""
        before = (self._decoder.awaiting, self.opened)
        bodies = self._decoder.feed(data)
        self._fed += len(data)
        self.opened = self._fed >= len(channelframes.MAGIC)
        if bodies or (self._decoder.awaiting, self.opened) != before:
            self._since = now
        return bodies

    @property
    def held(self) -> int:
        """Bytes that came of a message that is not whole yet."""
        return self._decoder.held

    def finish(self) -> None:
        """The peer closed the channel.  Raises ProtocolError if it did so inside a message."""
        self._decoder.finish()

    def resumed(self, now: float) -> None:
        """Nothing was read for a while, which was not the peer's fault."""
        self._since = now

    @property
    def needed(self) -> int:
        """Bytes to read next for whoever must not read ahead; at least 1."""
        return self._decoder.needed

    @property
    def deadline(self) -> float | None:
        """When `check` will find fault unless more comes; None while the peer may be silent."""
        return None if self._decoder.awaiting == "length" else self._since + self._read_limit

    def check(self, now: float) -> None:
        """Raises ProtocolError if what is due did not come in time."""
        if self.deadline is not None and now >= self.deadline:
            what = "message" if self._decoder.awaiting == "body" else "magic number"
            raise ProtocolError(f"read of a {what} timed out after {self._read_limit:g} s")
