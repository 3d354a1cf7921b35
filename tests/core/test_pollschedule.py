"""client-https 5.1: when a polling client polls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.pollschedule import MAX_BYTES, MAX_COUNT, PollSchedule


class PollScheduleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.schedule = PollSchedule(max_poll_delay=300, max_buffer_delay=5)

    def test_the_first_poll_is_at_once(self) -> None:
        """client-tests 54."""
        self.assertLessEqual(self.schedule.deadline(1000, 0.5), 1000)

    def test_without_anything_to_do_after_the_longest_delay(self) -> None:
        self.schedule.succeeded(1000, active=False)
        self.assertEqual([self.schedule.deadline(1000, u) for u in (0, 0.5)], [1300, 1375])

    def test_what_is_held_goes_after_the_buffer_delay(self) -> None:
        """client-tests 54: counted from the oldest one."""
        self.schedule.succeeded(1000, active=False)
        self.schedule.holding(1010, 1, 10)
        self.schedule.holding(1012, 2, 20)
        self.assertEqual(self.schedule.deadline(1012, 0), 1015)

    def test_a_full_load_goes_at_once(self) -> None:
        """client-tests 46 and 47."""
        for count, size in ((MAX_COUNT, 0), (1, MAX_BYTES)):
            self.schedule.succeeded(1000, active=False)
            self.schedule.holding(1001, count, size)
            self.assertLessEqual(self.schedule.deadline(1001, 0.9), 1001)

    def test_after_activity_the_gaps_grow_by_a_tenth_of_the_idle_time(self) -> None:
        """client-tests 55: 0.2, 0.22, 0.242, ..."""
        now = 1000.0
        self.schedule.succeeded(now, active=True)
        gaps = []
        for _ in range(3):
            deadline = self.schedule.deadline(now, 0.5)
            gaps.append(round(deadline - now, 3))
            now = deadline
            self.schedule.succeeded(now, active=False)
        self.assertEqual(gaps, [0.2, 0.22, 0.242])

    def test_the_gaps_end_at_the_longest_delay(self) -> None:
        self.schedule.succeeded(0, active=True)
        self.schedule.succeeded(10**6, active=False)
        self.assertEqual(self.schedule.deadline(10**6, 0), 10**6 + 300)

    @given(st.floats(0, 0.999), st.booleans(), st.integers(0, 200), st.floats(0, 1000))
    def test_never_later_than_the_longest_delay(self, u: float, active: bool, count: int, later: float) -> None:
        schedule = PollSchedule(300, 5)
        schedule.succeeded(0, active=active)
        schedule.holding(later, count, 0)
        self.assertLessEqual(schedule.deadline(later, u), max(450.0, later))
