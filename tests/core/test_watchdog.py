"""A client that goes on trying is left alone; one that stopped trying is found out, after a last chance."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.watchdog import GRACE, MIN_LIMIT, Watchdog, limit_for

seconds = st.floats(0, 1e6)


class LimitTests(SynchronousTestCase):
    def test_it_is_an_hour_as_upstreams_for_short_delays(self) -> None:
        self.assertEqual(limit_for([300.0, 300.0], 900.0), MIN_LIMIT)
        self.assertEqual(limit_for([], 0.0), MIN_LIMIT)

    @given(st.lists(seconds, min_size=1), seconds)
    def test_it_always_leaves_room_for_the_longest_delay_and_an_attempt(
        self, delays: list[float], attempt: float
    ) -> None:
        self.assertGreaterEqual(limit_for(delays, attempt), 2 * (1.5 * max(delays) + attempt))


class WatchdogTests(SynchronousTestCase):
    def test_it_expires_after_the_limit_and_the_grace(self) -> None:
        watchdog = Watchdog(10.0, 100.0)
        self.assertEqual(watchdog.check(100.0), 10.0)
        self.assertEqual(watchdog.check(109.0), 1.0)
        self.assertEqual(watchdog.check(110.0), GRACE)
        self.assertEqual(watchdog.check(114.0), 1.0)
        self.assertEqual(watchdog.check(115.0), 0.0)
        self.assertEqual(watchdog.idle(115.0), 15.0)

    def test_after_a_suspend_the_grace_begins_when_the_machine_is_awake(self) -> None:
        watchdog = Watchdog(10.0, 0.0)
        self.assertEqual(watchdog.check(5000.0), GRACE)
        watchdog.reset(5004.0)
        self.assertEqual(watchdog.check(5005.0), 9.0)
        self.assertEqual(watchdog.check(9000.0), GRACE, "a grace of its own each time")

    def test_a_reset_that_is_over_itself_gets_its_own_grace(self) -> None:
        watchdog = Watchdog(10.0, 0.0)
        watchdog.check(10.0)
        watchdog.reset(12.0)
        self.assertEqual(watchdog.check(100.0), GRACE)

    @given(st.lists(st.floats(0, 10), max_size=30), st.lists(st.floats(0, 30), max_size=30))
    def test_it_never_expires_while_resets_come_within_the_limit(self, gaps: list[float], checks: list[float]) -> None:
        watchdog, now = Watchdog(10.5, 0.0), 0.0
        for gap, check in zip(gaps, checks, strict=False):
            self.assertGreater(watchdog.check(now + min(check, gap)), 0)
            now += gap
            watchdog.reset(now)

    @given(st.floats(0.1, 100), st.floats(0, 100), st.floats(0, 1e5))
    def test_whoever_checks_when_told_finds_it_expired_no_sooner_and_little_later(
        self, limit: float, grace: float, start: float
    ) -> None:
        watchdog, now = Watchdog(limit, start, grace), start
        for _ in range(10):
            wait = watchdog.check(now)
            if not wait:
                break
            now += wait
        self.assertAlmostEqual(now, start + limit + grace, delta=1e-6)
        self.assertEqual(watchdog.check(now + 1e-6), 0.0)
