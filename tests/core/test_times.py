"""Decisions about when: retries, delays, the life of a stream, loneliness, and the rate of writes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.backoff import full_jitter, jittered
from fleetspeak.core.loneliness import Loneliness
from fleetspeak.core.retrytimes import DEAD, client_retry, given_up, next_try, server_retry
from fleetspeak.core.streamlife import StreamLife, StreamState
from fleetspeak.core.writerate import LEAST, MOST, WriteRate
from fleetspeak.records import MIN_RETRY_DELAY_NS, NO_LIMITS, RetryLimits

_U = st.floats(0, 1, exclude_max=True)
_MINUTE = 60 * 10**9
_DAY = 24 * 60 * _MINUTE


class RetryTimeTests(SynchronousTestCase):
    def test_a_client_gets_a_message_again_after_fifteen_minutes(self) -> None:
        self.assertEqual(client_retry(1), 1 + 15 * _MINUTE)

    def test_a_service_first_after_one_to_two_minutes(self) -> None:
        self.assertEqual(server_retry(7, 0, 0.0), 7 + _MINUTE)
        self.assertEqual(server_retry(7, 0, 0.5), 7 + _MINUTE * 3 // 2)

    def test_then_a_tenth_longer_each_time(self) -> None:
        self.assertAlmostEqual(server_retry(0, 10, 0.0) / _MINUTE, 1.1**10, places=6)

    @given(st.integers(0, 2**63), _U)
    def test_never_more_than_a_day(self, count: int, u: float) -> None:
        self.assertTrue(_MINUTE <= server_retry(0, count, u) <= _DAY)

    @given(st.integers(0, 2**63), _U, st.integers(MIN_RETRY_DELAY_NS, 10 * _DAY))
    def test_nor_than_the_cap_that_is_set(self, count: int, u: float, cap: int) -> None:
        self.assertTrue(_MINUTE <= server_retry(0, count, u, cap) <= cap)

    def test_even_the_longest_delays_of_many_messages_are_spread(self) -> None:
        self.assertGreater(server_retry(0, 1000, 0.9) - server_retry(0, 1000, 0.1), _DAY // 3)


class GivingUpTests(SynchronousTestCase):
    """Which message for a service is tried no more."""

    def test_without_limits_never(self) -> None:
        self.assertIsNone(given_up(2**62, 0, 10**6, NO_LIMITS))

    def test_after_so_many_attempts(self) -> None:
        limits = RetryLimits(max_attempts=3)
        self.assertIsNone(given_up(7 * 10**9, 0, 1, limits))
        self.assertEqual(
            given_up(7 * 10**9, 0, 2, limits), "expired: given up after 3 attempts, 7 s after its creation"
        )

    def test_at_an_age_but_not_before_it_was_tried_again(self) -> None:
        limits = RetryLimits(max_age_ns=_DAY)
        self.assertIsNone(given_up(_DAY - 1, 0, 5, limits))
        self.assertIsNone(given_up(_DAY, 0, 0, limits))
        reason = given_up(_DAY, 0, 1, limits)
        assert reason is not None
        self.assertTrue(reason.startswith(DEAD))

    @given(
        st.integers(0, 2**62),
        st.integers(0, 2**62),
        st.integers(0, 200),
        _U,
        st.builds(
            RetryLimits,
            st.integers(MIN_RETRY_DELAY_NS, 10 * _DAY),
            st.none() | st.integers(1, 10 * _DAY),
            st.none() | st.integers(1, 100),
        ),
    )
    def test_the_end_is_told_in_time(self, now: int, created: int, count: int, u: float, limits: RetryLimits) -> None:
        """No later than the next try, nor than two minutes after it is clear, and never before a minute has passed."""
        due = next_try(now, created, count, u, limits)
        self.assertTrue(now + _MINUTE <= due <= server_retry(now, count, u, limits.max_delay_ns))
        if limits.max_attempts is not None and count + 1 >= limits.max_attempts:
            self.assertLessEqual(due, now + 2 * _MINUTE)
        if limits.max_age_ns is not None:
            self.assertLessEqual(due, max(created + limits.max_age_ns, now + 2 * _MINUTE))


class DelayTests(SynchronousTestCase):
    @given(st.floats(0, 1e6), _U)
    def test_jitter_adds_up_to_one_half(self, seconds: float, u: float) -> None:
        self.assertTrue(seconds <= jittered(seconds, u) <= 1.5 * seconds)

    @given(st.floats(0.1, 60), st.floats(0, 1e5), st.integers(0, 10**9), _U)
    def test_full_jitter_keeps_to_its_cap(self, base: float, cap: float, attempt: int, u: float) -> None:
        self.assertTrue(0 <= full_jitter(base, cap, attempt, u) <= cap)

    def test_full_jitter_doubles(self) -> None:
        self.assertEqual([full_jitter(1, 60, attempt, 0.5) for attempt in (0, 1, 2, 10)], [0.5, 1, 2, 30])


class StreamLifeTests(SynchronousTestCase):
    def test_a_stream_is_open_then_closing_then_over(self) -> None:
        """server-https 4.6: 10 min, the last 30 s of it closing."""
        life = StreamLife(100, 600, 30)
        self.assertEqual(
            [life.state(now) for now in (100, 669.9, 670, 699.9, 700)],
            [StreamState.OPEN, StreamState.OPEN, StreamState.CLOSING, StreamState.CLOSING, StreamState.OVER],
        )
        self.assertEqual([life.next_change(now) for now in (100, 670, 700)], [670, 700, None])

    def test_jitter_makes_it_longer(self) -> None:
        self.assertEqual(StreamLife(0, 600, 30, 20).next_change(0), 590)

    def test_a_close_time_longer_than_life_closes_at_once(self) -> None:
        self.assertEqual(StreamLife(5, 10, 30).state(5), StreamState.CLOSING)

    @given(st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 100))
    def test_the_states_come_in_their_order(self, start: float, lifespan: float, close: float, jitter: float) -> None:
        life = StreamLife(start, lifespan, close, jitter)
        order, seen = list(StreamState), []
        now: float | None = start
        while now is not None:
            seen.append(order.index(life.state(now)))
            now = life.next_change(now)
        self.assertEqual(seen, sorted(set(seen)))
        self.assertEqual(seen[-1], order.index(StreamState.OVER))


class LonelinessTests(SynchronousTestCase):
    def test_it_counts_from_the_start(self) -> None:
        """client-tests 82, and for polling as well."""
        loneliness = Loneliness(10, 100)
        self.assertIsNone(loneliness.verdict(110))
        self.assertEqual(loneliness.verdict(111), "Too Lonely! Failed to contact server in 11 s.")

    def test_and_from_the_last_contact(self) -> None:
        """client-tests 59."""
        loneliness = Loneliness(10, 100)
        loneliness.contacted(111)
        self.assertIsNone(loneliness.verdict(121))
        self.assertIsNotNone(loneliness.verdict(122))


class WriteRateTests(SynchronousTestCase):
    def test_a_record_holds_seven_and_a_half_mebibytes_unless_the_line_is_slow(self) -> None:
        """client-tests 72."""
        rate = WriteRate()
        self.assertEqual(rate.threshold(), MOST)
        rate.wrote(512 * 1024, 0.1)
        self.assertEqual(rate.threshold(), MOST)

    def test_ten_seconds_of_a_slow_line(self) -> None:
        """client-tests 71: 100 KB/s."""
        rate = WriteRate()
        rate.wrote(512 * 1024, 5.12)
        self.assertEqual(rate.threshold(), 1024 * 1000)

    def test_a_quarter_of_a_mebibyte_in_any_case(self) -> None:
        rate = WriteRate()
        rate.wrote(LEAST + 1, 3600)
        self.assertEqual(rate.threshold(), LEAST)

    def test_small_writes_say_nothing(self) -> None:
        rate = WriteRate()
        rate.wrote(LEAST, 3600)
        rate.wrote(LEAST + 1, 0)
        self.assertEqual(rate.threshold(), MOST)
