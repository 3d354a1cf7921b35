from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import StoreError
from fleetspeak.pb import common
from fleetspeak.server.https.pushing import LOOK_LIMIT, Pusher, delay_after


class PusherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.looks: list[Deferred[Sequence[common.Message]]] = []
        self.sent: list[int] = []
        self.failures: list[Exception] = []
        self.ready = 0
        self.pusher = Pusher(self.look, self.send, self.failures.append, self.be_ready, self.clock, lambda: 0.0)

    async def look(self) -> Sequence[common.Message]:
        look: Deferred[Sequence[common.Message]] = Deferred()
        self.looks.append(look)
        return await look

    def send(self, messages: Sequence[common.Message]) -> None:
        self.sent.append(len(messages))

    def be_ready(self) -> None:
        self.ready += 1

    def answer(self, count: int) -> None:
        self.looks.pop(0).callback([common.Message()] * count)

    def fail(self) -> None:
        self.looks.pop(0).errback(StoreError("locked"))

    def test_looks_when_woken(self) -> None:
        self.pusher.start()
        self.assertEqual(self.looks, [])
        self.pusher.wake()
        self.answer(3)
        self.assertEqual((self.sent, self.looks), ([3], []))

    def test_woken_before_the_start(self) -> None:
        self.pusher.wake()
        self.assertEqual(self.looks, [])
        self.pusher.start()
        self.assertEqual(len(self.looks), 1)

    def test_one_look_at_a_time_and_one_more_for_all_that_came(self) -> None:
        self.pusher.start()
        for _ in range(5):
            self.pusher.wake()
        self.assertEqual(len(self.looks), 1)
        self.answer(1)
        self.assertEqual(len(self.looks), 1)
        self.answer(4)
        self.assertEqual((self.sent, self.looks), ([1, 4], []))

    def test_nothing_found_is_not_sent(self) -> None:
        self.pusher.start()
        self.pusher.wake()
        self.answer(0)
        self.assertEqual(self.sent, [])

    def test_100_make_for_another_look(self) -> None:
        self.pusher.start()
        self.pusher.wake()
        self.answer(100)
        self.answer(99)
        self.assertEqual((self.sent, self.looks), ([100, 99], []))

    def test_held(self) -> None:
        self.pusher.start()
        self.pusher.hold()
        self.pusher.wake()
        self.assertEqual(self.looks, [])
        self.pusher.release()
        self.assertEqual(len(self.looks), 1)

    def test_failing_looks_wait_longer_and_longer(self) -> None:
        self.pusher.start()
        self.pusher.wake()
        for errors in range(1, 25):
            self.fail()
            self.pusher.wake()
            delay = delay_after(errors, 0.0)
            self.clock.advance(delay - 0.01)
            self.assertEqual(self.looks, [], errors)
            self.clock.advance(0.011)
            self.assertEqual(len(self.looks), 1, errors)
        self.answer(0)
        self.pusher.wake()
        self.fail()
        self.clock.advance(delay_after(1, 0.0))
        self.assertEqual(len(self.looks), 1)
        self.assertEqual(len(self.failures), 25)

    @given(st.integers(1, 10**6), st.floats(0, 1))
    def test_the_delay_is_capped(self, errors: int, u: float) -> None:
        self.assertTrue(0.15 <= delay_after(errors, u) <= 30.0)

    def test_a_look_that_takes_too_long(self) -> None:
        self.pusher.start()
        self.pusher.wake()
        self.clock.advance(LOOK_LIMIT)
        self.assertEqual(len(self.failures), 1)

    def test_stop_lets_a_look_end(self) -> None:
        self.pusher.start()
        self.pusher.wake()
        self.pusher.stop()
        self.assertTrue(self.pusher.is_looking)
        self.answer(100)
        self.assertEqual((self.sent, self.looks, self.ready), ([100], [], 1))
        self.assertFalse(self.pusher.is_looking)

    def test_stop_during_a_delay(self) -> None:
        self.pusher.start()
        self.pusher.wake()
        self.fail()
        self.pusher.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        self.pusher.start()
        self.pusher.wake()
        self.pusher.cancel()
        self.assertFalse(self.pusher.is_looking)
        self.assertEqual((self.sent, self.failures), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])
