"""A set of whole numbers that mostly lie side by side."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class Intervals:
    """Costs as much memory as there are gaps in it."""

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in intervals:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Put in all from `first` to `last`; none if `last` is less."""
        if last < first:
            return
        begin = bisect_right(self._lasts, first - 2)
        # Those from `begin` on end at first - 1 or later; the ones that begin at last + 1 or before join it.
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The intervals, first and last number of each, in order."""
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        """How many intervals."""
        return len(self._firsts)

    def count(self, first: int, last: int) -> int:
        """How many numbers from `first` to `last` are in it."""
        begin = max(0, bisect_right(self._firsts, first) - 1)
        total = 0
        for at in range(begin, len(self._firsts)):
            if self._firsts[at] > last:
                break
            total += max(0, min(last, self._lasts[at]) - max(first, self._firsts[at]) + 1)
        return total

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """What is missing from `first` to `last`, as intervals."""
        missing = []
        for begin, end in self:
            if begin > last:
                break
            if end >= first:
                if begin > first:
                    missing.append((first, begin - 1))
                first = end + 1
        if first <= last:
            missing.append((first, last))
        return missing

    @property
    def last(self) -> int:
        """The largest number in it, or 0."""
        return self._lasts[-1] if self._lasts else 0
