"""client-https 5.1: when a polling client polls."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.pollschedule import MAX_BYTES, MAX_COUNT, PollSchedule


class PollScheduleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.schedule = PollSchedule(max_poll_delay=300, max_buffer_delay=5)

    def test_the_first_poll_is_at_once(self) -> None:
        """client-tests 54."""
        self.assertEqual(self.schedule.due, -math.inf)

    def test_without_anything_to_do_after_the_longest_delay(self) -> None:
        for u, due in ((0, 1300), (0.5, 1375)):
            self.schedule.succeeded(1000, active=False, u=u)
            self.assertEqual(self.schedule.due, due)

    def test_what_is_held_goes_after_the_buffer_delay(self) -> None:
        """client-tests 54: counted from the oldest one."""
        self.schedule.succeeded(1000, active=False, u=0)
        self.schedule.holding(1005, 0, 0, 0)
        self.schedule.holding(1010, 1, 10, 0.5)
        self.schedule.holding(1012, 2, 20, 0.9)
        self.assertEqual(self.schedule.due, 1016.25)

    def test_a_poll_that_failed_leaves_what_is_held_due(self) -> None:
        self.schedule.succeeded(1000, active=False, u=0)
        self.schedule.holding(1010, 1, 10, 0)
        self.schedule.holding(1020, 0, 0, 0)
        self.schedule.holding(1030, 1, 10, 0)
        self.assertEqual(self.schedule.due, 1015)

    def test_a_full_load_goes_at_once(self) -> None:
        """client-tests 46 and 47."""
        for count, size in ((MAX_COUNT, 0), (1, MAX_BYTES)):
            self.schedule.succeeded(1000, active=False, u=0)
            self.schedule.holding(1001, count, size, 0)
            self.assertEqual(self.schedule.due, -math.inf)

    def test_after_activity_the_gaps_grow_by_a_tenth_of_the_idle_time(self) -> None:
        """client-tests 55: 0.2, 0.22, 0.242, ..."""
        now, gaps = 1000.0, []
        self.schedule.succeeded(now, active=True, u=0)
        for _ in range(3):
            gaps.append(round(self.schedule.due - now, 3))
            now = self.schedule.due
            self.schedule.succeeded(now, active=False, u=0)
        self.assertEqual(gaps, [0.2, 0.22, 0.242])

    def test_the_gaps_end_at_the_longest_delay(self) -> None:
        self.schedule.succeeded(0, active=True, u=0)
        self.schedule.succeeded(10**6, active=False, u=0)
        self.assertEqual(self.schedule.due, 10**6 + 300)

    @given(st.floats(0, 0.999), st.booleans(), st.integers(0, 200), st.floats(0, 1000))
    def test_never_later_than_the_longest_delay(self, u: float, active: bool, count: int, later: float) -> None:
        schedule = PollSchedule(300, 5)
        schedule.succeeded(0, active=active, u=u)
        schedule.holding(later, count, 0, u)
        self.assertLessEqual(schedule.due, 450)
