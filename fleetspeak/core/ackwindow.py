"""The records of a stream that the server has not acknowledged yet, on the client."""

from __future__ import annotations

from collections.abc import Sequence

from fleetspeak.core.outbox import Entry
from fleetspeak.errors import ProtocolError


class AckWindow:
    """Numbers the records after the first one, 1, 2, 3 ..., and takes an ack for each, once.

    Acks may come in any order: a Go server processes several records of a stream at a time, and acknowledges each when
    it is done with it.
    """

    def __init__(self) -> None:
        self._sent = 0
        self._open: dict[int, list[Entry]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def sent(self, entries: Sequence[Entry]) -> int:
        """A record with these messages (maybe none) was sent.  Returns its number."""
        self._sent += 1
        self._open[self._sent] = list(entries)
        return self._sent

    def acked(self, index: int) -> list[Entry]:
        """The messages that this acknowledgement confirms.

        Raises ProtocolError if there is no such record, or it was acknowledged before: taking that for another one's
        would lose messages.
        """
        entries = self._open.pop(index, None)
        if entries is None:
            raise ProtocolError(f"ack_index {index} although no such record is unacknowledged")
        return entries

    def unacked(self) -> list[Entry]:
        """The messages of all records that are not acknowledged, oldest first."""
        return [entry for entries in self._open.values() for entry in entries]
