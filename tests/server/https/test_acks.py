from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.server.https.acks import AckOrder


class AckOrderTests(SynchronousTestCase):
    def test_one_after_the_other(self) -> None:
        order = AckOrder()
        for number in (1, 2, 3):
            self.assertEqual(order.begin(), number)
            self.assertEqual(list(order.done(number)), [number])

    @given(st.permutations(range(1, 9)))
    def test_each_once_and_in_order_whatever_is_done_first(self, finished: list[int]) -> None:
        order = AckOrder()
        for _ in finished:
            order.begin()
        told = [number for one in finished for number in order.done(one)]
        self.assertEqual(told, sorted(finished))

    @given(st.permutations(range(1, 9)), st.integers(1, 8))
    def test_none_behind_one_that_is_never_done(self, finished: list[int], failing: int) -> None:
        order = AckOrder()
        for _ in finished:
            order.begin()
        told = [number for one in finished if one != failing for number in order.done(one)]
        self.assertEqual(told, list(range(1, failing)))
