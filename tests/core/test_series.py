"""Counters whose number is bounded, whatever comes (server-core 9.2: cap cardinality)."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.series import MAX_VALUE_LENGTH, MOST, OTHER, Distribution, LabelValues, Metric, Table

BOUNDS = (0.5, 1.0, 10.0)
COUNT = Metric("count", "")


class LabelValuesTests(SynchronousTestCase):
    def test_beyond_n_distinct_values_everything_is_other(self) -> None:
        values = LabelValues(limit=3)
        self.assertEqual([values.admit(str(n)) for n in range(5)], ["0", "1", "2", OTHER, OTHER])
        self.assertEqual([values.admit(str(n)) for n in range(5)], ["0", "1", "2", OTHER, OTHER])
        self.assertEqual(values.refused, 4)

    def test_what_is_expected_always_has_a_place(self) -> None:
        values = LabelValues(limit=1, expected=["system"])
        self.assertEqual([values.admit(one) for one in ("a", "b", "system")], ["a", OTHER, "system"])

    def test_a_value_that_is_too_long_takes_no_place(self) -> None:
        values = LabelValues(limit=1)
        self.assertEqual(values.admit("x" * (MAX_VALUE_LENGTH + 1)), OTHER)
        self.assertEqual(values.admit("x" * MAX_VALUE_LENGTH), "x" * MAX_VALUE_LENGTH)

    def test_other_itself_takes_no_place(self) -> None:
        values = LabelValues(limit=1)
        self.assertEqual([values.admit(one) for one in (OTHER, "a")], [OTHER, "a"])

    @given(st.lists(st.text(max_size=3)), st.integers(0, 5))
    def test_any_values_end_in_at_most_so_many_different_ones(self, values: list[str], limit: int) -> None:
        known = LabelValues(limit, expected=["a", "b"])
        self.assertLessEqual(len({known.admit(value) for value in values} - {"a", "b", OTHER}), limit)


class DistributionTests(SynchronousTestCase):
    def test_an_observation_counts_up_to_and_with_its_bound(self) -> None:
        counted = Distribution(BOUNDS)
        for value in (0, 0.5, 0.6, 10, 11):
            counted.observe(value)
        self.assertEqual(counted.cumulative(), [(0.5, 2), (1.0, 3), (10.0, 4), (math.inf, 5)])
        self.assertEqual(counted.total, 22.1)

    def test_what_is_no_number_or_negative_is_passed_over_as_sums_must_only_grow(self) -> None:
        counted = Distribution(BOUNDS)
        for value in (math.nan, -math.inf, -1.0):
            counted.observe(value)
        self.assertEqual((counted.total, sum(counted.counts)), (0, 0))

    @given(st.lists(st.floats()))
    def test_whatever_a_client_says_sums_are_numbers_and_only_grow(self, values: list[float]) -> None:
        counted = Distribution(BOUNDS)
        before = 0.0
        for value in values:
            counted.observe(value)
            self.assertGreaterEqual(counted.total, before)
            before = counted.total
        self.assertTrue(math.isfinite(counted.total))
        self.assertLessEqual(counted.total, MOST * len(values))
        counts = [count for _, count in counted.cumulative()]
        self.assertEqual(counts, sorted(counts))


class TableTests(SynchronousTestCase):
    def test_what_is_counted_together_has_one_cell(self) -> None:
        table = Table(("a",), COUNT, Metric("seconds", "", "histogram", BOUNDS))
        cell = table.cell("x")
        cell[0] += 2
        cell[1].observe(0.7)
        self.assertIs(table.cell("x"), cell)
        ((values, (count, seconds)),) = table.read().rows
        self.assertEqual((values, count, seconds.counts), (("x",), 2, [0, 1, 0, 0]))

    def test_a_reading_does_not_change_any_more(self) -> None:
        table = Table((), COUNT, Metric("seconds", "", "histogram", BOUNDS))
        table.cell()
        reading = table.read()
        table.cell()[0] += 1
        table.cell()[1].observe(1)
        ((_, (count, seconds)),) = reading.rows
        self.assertEqual((count, seconds.total), (0, 0))

    def test_beyond_so_many_combinations_what_clients_choose_is_other_and_what_is_ours_is_kept(self) -> None:
        table = Table(("ours", "theirs"), COUNT, capped={"theirs": LabelValues()}, max_cells=2)
        for number in range(4):
            table.cell("true", str(number))[0] += 1
        table.cell("false", "0")[0] += 1
        counted = {values: cell[0] for values, cell in table.read().rows}
        self.assertEqual(counted, {("true", "0"): 1, ("true", "1"): 1, ("true", OTHER): 2, ("false", OTHER): 1})
        self.assertEqual(table.overflowed, 3)

    @given(st.lists(st.tuples(st.booleans(), st.text(max_size=2), st.text(max_size=2))))
    def test_nothing_is_lost_and_the_number_of_cells_is_bounded(self, counted: list[tuple[bool, str, str]]) -> None:
        caps = {"a": LabelValues(4), "b": LabelValues(4)}
        table = Table(("ours", "a", "b"), COUNT, capped=caps, max_cells=6)
        for ours, a, b in counted:
            table.cell(str(ours), a, b)[0] += 1
        rows = table.read().rows
        self.assertEqual(sum(cell[0] for _, cell in rows), len(counted))
        self.assertLessEqual(len(rows), 6 + 2)
