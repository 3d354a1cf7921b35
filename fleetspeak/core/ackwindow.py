"""The records of a stream that the server has not acknowledged yet, on the client."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fleetspeak.core.outbox import Entry
from fleetspeak.errors import ProtocolError


class AckWindow:
    """Numbers the records after the first one, 1, 2, 3 ..., and takes their acks in that order."""

    def __init__(self) -> None:
        self._sent = 0
        self._open: deque[list[Entry]] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def sent(self, entries: Sequence[Entry]) -> int:
        """A record with these messages (maybe none) was sent.  Returns its number."""
        self._sent += 1
        self._open.append(list(entries))
        return self._sent

    def acked(self, index: int) -> list[Entry]:
        """The messages that this acknowledgement confirms.  Raises ProtocolError if another one was due."""
        due = self._sent - len(self._open) + 1
        if not self._open:
            raise ProtocolError(f"ack_index {index} although no record is unacknowledged")
        if index != due:
            raise ProtocolError(f"ack_index {index} out of order, {due} was due")
        return self._open.popleft()

    def unacked(self) -> list[Entry]:
        """The messages of all records that are not acknowledged, oldest first."""
        return [entry for entries in self._open for entry in entries]
