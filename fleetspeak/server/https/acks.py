"""The order of acks on a stream.

Clients match the k-th ack they receive with their k-th unacknowledged record, whatever number it carries: so each
record gets exactly one, in order, and one that failed ends the row for ever.
"""

from __future__ import annotations


class AckOrder:
    """Numbers the records of one stream, and tells whose turn it is to be acknowledged."""

    __slots__ = ("_begun", "_done", "_told")

    def __init__(self) -> None:
        self._begun = 0
        self._told = 0
        self._done: set[int] = set()
        """Done, but behind one that is not."""

    def begin(self) -> int:
        """The number of the next record; the first one behind the start of the contact has 1."""
        self._begun += 1
        return self._begun

    def done(self, number: int) -> range:
        """Record `number` is stored.  Returns the numbers to acknowledge now, in order."""
        self._done.add(number)
        first = self._told + 1
        while self._told + 1 in self._done:
            self._told += 1
            self._done.discard(self._told)
        return range(first, self._told + 1)
