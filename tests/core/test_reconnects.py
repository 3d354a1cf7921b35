"""When a client that lost its stream tries again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.reconnects import NORMAL_LIFE, SPREAD, Reconnects


class ReconnectsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reconnects = Reconnects(300, 720)

    def test_a_client_that_never_had_a_stream_keeps_the_configured_distance(self) -> None:
        self.assertEqual([self.reconnects.after_failure(u) for u in (0.0, 0.5)], [300, 375])

    def test_the_first_attempts_after_a_stream_come_sooner(self) -> None:
        self.assertEqual(self.reconnects.after_stream(60, False, 0.5), SPREAD / 2)
        self.assertEqual([self.reconnects.after_failure(0.5) for _ in range(5)], [20, 40, 80, 375, 375])

    def test_an_end_by_age_has_no_delay(self) -> None:
        self.assertEqual(self.reconnects.after_stream(NORMAL_LIFE, True, 0.9), 0)
        self.assertEqual(self.reconnects.after_stream(720, False, 0.9), 0)
        self.assertGreater(self.reconnects.after_stream(NORMAL_LIFE, False, 0.9), 0)

    def test_fifty_thousand_clients_of_a_server_that_stops_come_back_spread(self) -> None:
        clients = 50_000
        times = [Reconnects(300, 720).after_stream(60, True, n / clients) for n in range(clients)]
        busiest = max(sum(second <= time < second + 1 for time in times) for second in range(int(SPREAD) + 1))
        self.assertLessEqual(busiest, clients / SPREAD + 1)

    @given(
        st.lists(st.tuples(st.booleans(), st.floats(0, 1000), st.booleans(), st.floats(0, 1, exclude_max=True))),
        st.integers(1, 10**6),
    )
    def test_no_delay_is_longer_than_the_configured_one(
        self, events: list[tuple[bool, float, bool, float]], failure_delay: int
    ) -> None:
        reconnects = Reconnects(failure_delay, 720)
        for is_stream, lived, announced, u in events:
            if is_stream:
                self.assertTrue(0 <= reconnects.after_stream(lived, announced, u) <= failure_delay)
            else:
                self.assertTrue(0 <= reconnects.after_failure(u) <= 1.5 * failure_delay)
