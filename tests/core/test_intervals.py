"""A set of numbers that knows its gaps, beside a plain one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.intervals import Intervals

some = st.lists(st.tuples(st.integers(1, 60), st.integers(-2, 10)), max_size=20)


class Sets(SynchronousTestCase):
    @given(some, st.integers(0, 70), st.integers(0, 70))
    def test_it_is_a_set(self, added: list[tuple[int, int]], first: int, last: int) -> None:
        plain: set[int] = set()
        intervals = Intervals()
        for begin, more in added:
            intervals.add(begin, begin + more)
            plain.update(range(begin, begin + more + 1))
        self.assertEqual(plain, {number for number in range(100) if number in intervals})
        self.assertEqual(sorted(plain), [n for begin, end in intervals for n in range(begin, end + 1)])
        self.assertEqual(max(plain, default=0), intervals.last)
        self.assertEqual(len(intervals), sum(number - 1 not in plain for number in plain), "neighbours are joined")
        asked = set(range(first, last + 1))
        self.assertEqual(len(plain & asked), intervals.count(first, last))
        missing = [n for begin, end in intervals.gaps(first, last) for n in range(begin, end + 1)]
        self.assertEqual(sorted(asked - plain), missing)
