"""Verdicts about processes: silence, memory, and when to start them again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.supervision import (
    LATE,
    LONG_LIFE,
    LONGEST_DELAY,
    SECOND_LOOK,
    HeartbeatRules,
    HeartbeatWatch,
    RespawnSchedule,
    memory_exceeded,
)

_U = st.floats(0, 1, exclude_max=True)
_rules = st.builds(HeartbeatRules, st.floats(0, 50), st.floats(0.01, 50))


class Memory(SynchronousTestCase):
    def test_the_limit_itself_is_too_much_and_0_is_no_limit(self) -> None:
        self.assertEqual([False, True, True], [memory_exceeded(10, rss) for rss in (9, 10, 11)])
        self.assertFalse(memory_exceeded(0, 2**40))
        self.assertFalse(memory_exceeded(-1, 2**40))


def killed_at(
    rules: HeartbeatRules, beats: list[float], end: float, blocked: tuple[float, float] = (0, 0), delay: float = 0
) -> float | None:
    """When a process that beats at these times is killed, if it is checked whenever it asks for that, or later."""
    watch, beats = HeartbeatWatch(rules, 0.0), sorted(beats)
    while (now := watch.deadline + delay) <= end:
        while beats and beats[0] <= now:
            watch.heard(beats.pop(0))
        if watch.check(now, blocked=blocked[0] <= now < blocked[1]):
            return now
    return None


class Heartbeats(SynchronousTestCase):
    def test_a_silent_process_is_killed_after_the_grace_period_and_a_second_look(self) -> None:
        self.assertEqual(12.0, killed_at(HeartbeatRules(10, 5), [], 100))

    def test_or_after_the_kill_period_if_that_is_longer(self) -> None:
        self.assertEqual(32.0, killed_at(HeartbeatRules(10, 30), [], 100))

    def test_a_sign_of_life_between_the_two_looks_saves_it(self) -> None:
        self.assertIsNone(killed_at(HeartbeatRules(1, 1), [2.5], 4.0))
        self.assertEqual(5.5, killed_at(HeartbeatRules(1, 1), [2.5], 6.0))

    def test_while_it_cannot_be_heard_the_look_is_postponed_by_a_kill_period(self) -> None:
        self.assertEqual(4 * 10 + SECOND_LOOK, killed_at(HeartbeatRules(10, 10), [], 100, blocked=(0, 35)))

    def test_a_look_before_its_time_says_nothing(self) -> None:
        watch = HeartbeatWatch(HeartbeatRules(10, 1), 0.0)
        self.assertFalse(watch.check(9.9, blocked=False))
        self.assertEqual(10.0, watch.deadline)
        self.assertEqual(9.9, watch.silence(9.9))

    def test_a_second_look_that_comes_late_is_repeated(self) -> None:
        """What the process sent meanwhile may not have been read yet."""
        watch = HeartbeatWatch(HeartbeatRules(10, 1), 0.0)
        watch.check(10.0, blocked=False)
        self.assertFalse(watch.check(12.0 + LATE + 0.1, blocked=False))
        self.assertTrue(watch.check(watch.deadline, blocked=False))

    @settings(max_examples=100)
    @given(_rules, st.floats(0, 0.999), st.floats(0, LATE * 0.99))
    def test_a_process_that_beats_in_time_is_never_killed(self, rules: HeartbeatRules, u: float, delay: float) -> None:
        step = u * rules.kill + 0.001
        beats = [step * number for number in range(int(300 / step) + 1)] if step > 0.3 else []
        if beats:
            self.assertIsNone(killed_at(rules, beats, 290, delay=delay))

    @settings(max_examples=100)
    @given(_rules, st.lists(st.floats(0, 100), max_size=30))
    def test_one_that_falls_silent_is_killed_in_time_but_not_too_early(
        self, rules: HeartbeatRules, beats: list[float]
    ) -> None:
        killed = killed_at(rules, beats, 1000)
        assert killed is not None
        last = max([0.0, *(beat for beat in beats if beat <= killed)])
        self.assertGreaterEqual(killed, max(rules.grace + SECOND_LOOK, last + rules.kill) - 1e-6)
        self.assertGreaterEqual(killed, rules.kill + SECOND_LOOK - 1e-6)
        self.assertLessEqual(killed, max(rules.grace, last + rules.kill) + 2 * SECOND_LOOK + 1e-6)

    @settings(max_examples=50)
    @given(_rules, st.lists(st.floats(0, 100), max_size=10))
    def test_it_is_never_killed_while_it_cannot_be_heard(self, rules: HeartbeatRules, beats: list[float]) -> None:
        self.assertIsNone(killed_at(rules, beats, 300, blocked=(0, 1e9)))


class Respawn(SynchronousTestCase):
    def test_the_first_start_need_not_wait(self) -> None:
        self.assertEqual(0, RespawnSchedule().wait(0.0))

    def delays(self, lives: list[float], u: float = 0.0, schedule: RespawnSchedule | None = None) -> list[float]:
        """What each start has to wait for, with these lives of the processes."""
        schedule, now, delays = schedule or RespawnSchedule(), 1000.0, []
        for life in lives:
            schedule.started(now)
            now += life
            schedule.ended(now, u)
            delays.append(round(schedule.wait(now), 6))
            now += delays[-1]
        return delays

    def test_short_lives_double_the_delay_up_to_five_minutes(self) -> None:
        self.assertEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300], self.delays([0.1] * 11))
        self.assertEqual([1.25, 2.5, 5.0], self.delays([0.1] * 3, u=0.5))

    def test_a_long_life_ends_that(self) -> None:
        self.assertEqual([1, 2, 0, 1, 0], self.delays([0, 59, 60, 0, 1e6]))

    def test_so_does_an_end_that_the_client_wanted(self) -> None:
        schedule = RespawnSchedule()
        self.delays([0, 0, 0], schedule=schedule)
        schedule.started(2000.0)
        schedule.ended(2001.0, 0.5, expected=True)
        self.assertEqual((0.0, 0), (schedule.wait(2001.0), schedule.short_lives))

    def test_a_longer_first_delay_is_kept(self) -> None:
        self.assertEqual([600, 600], self.delays([0, 0], schedule=RespawnSchedule(600.0)))

    @settings(max_examples=100)
    @given(st.lists(st.floats(0, 100), max_size=80), _U)
    def test_the_delay_grows_with_each_short_life_within_its_bounds(self, lives: list[float], u: float) -> None:
        expected = 1.0
        for life, delay in zip(lives, self.delays(lives, u), strict=True):
            if life >= LONG_LIFE + 1e-3:
                expected = 1.0
                self.assertEqual(0.0, delay)
            elif life < LONG_LIFE - 1e-3:
                self.assertTrue(expected - 1e-3 <= delay <= 1.5 * expected + 1e-3, (expected, delay))
                expected = min(LONGEST_DELAY, 2 * expected)
            else:
                return  # rounding decides
