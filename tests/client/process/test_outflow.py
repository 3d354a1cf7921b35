"""What a process sends: in order, several at a time, and never more than its share without being accepted."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.outbox import OutboxClosed
from fleetspeak.client.process.outflow import ACKED_SHARE, MAX_FLYING, PIPE_SHARE, Outflow
from fleetspeak.pb import common


def message(name: str, size: int = 0) -> common.Message:
    made = common.Message(message_type=name)
    made.data.value = bytes(size)
    return made


class Reading:
    """The pipe."""

    def __init__(self) -> None:
        self.paused = False

    def pause(self, descriptor: int) -> None:
        self.paused = True

    def resume(self, descriptor: int) -> None:
        self.paused = False


class Outflows(SynchronousTestCase):
    def setUp(self) -> None:
        self.pipe = Reading()
        self.sent: list[str] = []
        self.waiting: deque[Deferred[None]] = deque()
        self.told: list[int] = []
        self.outflow = Outflow("S", self.send, self.pipe, [4])

    def send(self, sent: common.Message) -> Deferred[None]:
        self.sent.append(sent.message_type)
        if sent.message_type == "now":
            return succeed(None)
        if sent.message_type == "never":
            return fail(ValueError("no destination"))
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def accept(self, count: int = 1) -> None:
        for _ in range(count):
            self.waiting.popleft().callback(None)

    def test_what_is_accepted_at_once_holds_up_nothing(self) -> None:
        self.outflow.put([message("now", PIPE_SHARE)] * 500)
        self.assertFalse(self.outflow.blocked)
        self.assertEqual(500, len(self.sent))
        self.successResultOf(self.outflow.finish())

    def test_several_are_on_the_way_and_reading_goes_on(self) -> None:
        self.outflow.put([message("a", 1000), message("b", 1000)])
        self.assertEqual(["a", "b"], self.sent)
        self.assertFalse(self.pipe.paused)

    def test_beyond_the_share_nothing_is_read_until_some_are_accepted(self) -> None:
        resumed: list[bool] = []
        self.outflow.put([message(str(number), 1020) for number in range(24)], lambda: resumed.append(True))
        self.assertTrue(self.pipe.paused)
        self.assertTrue(self.outflow.blocked)
        self.accept(2)
        self.assertFalse(self.pipe.paused)
        self.assertEqual([True], resumed)

    def test_a_hundred_small_ones_are_enough(self) -> None:
        self.outflow.put([message("a")] * (MAX_FLYING + 5))
        self.assertEqual(MAX_FLYING, len(self.sent))
        self.assertTrue(self.pipe.paused)
        self.accept(10)
        self.assertEqual(MAX_FLYING + 5, len(self.sent))
        self.assertFalse(self.pipe.paused)

    def test_a_part_that_is_held_counts_but_one_large_message_alone_is_read(self) -> None:
        self.outflow.put([message("a", 1000)], held=PIPE_SHARE)
        self.assertTrue(self.pipe.paused)
        self.accept()
        self.assertFalse(self.pipe.paused)
        self.outflow.put([], held=20 * PIPE_SHARE)
        self.assertFalse(self.pipe.paused)
        self.outflow.put([message("b", 21 * PIPE_SHARE)])
        self.assertEqual(["a", "b"], self.sent)
        self.assertTrue(self.pipe.paused)

    def test_who_waits_for_acks_has_a_larger_share_and_hears_of_prefixes(self) -> None:
        self.outflow.put([message("before"), message("now")])
        self.outflow.tell_from_here(self.told.append)
        self.outflow.put([message("1", PIPE_SHARE), message("2", PIPE_SHARE), message("never"), message("4")])
        self.assertFalse(self.pipe.paused)
        before, one, two, four = self.waiting
        one.callback(None)
        self.assertEqual([], self.told)
        before.callback(None)
        self.assertEqual([1], self.told)
        four.callback(None)
        self.assertEqual([1], self.told)
        two.callback(None)
        self.assertEqual([1, 4], self.told)
        self.assertEqual(1, len(self.flushLoggedErrors()) + 1)

    def test_what_is_lost_at_a_stop_is_not_called_safe(self) -> None:
        self.outflow.tell_from_here(self.told.append)
        self.outflow.put([message("1"), message("2"), message("3")])
        one, two, three = self.waiting
        one.callback(None)
        two.errback(OutboxClosed("the client is stopping"))
        three.callback(None)
        self.assertEqual([1], self.told)
        self.outflow.put([message("4")])
        self.outflow.drop()
        self.assertEqual([1], self.told)

    def test_the_larger_share_ends_too(self) -> None:
        self.outflow.tell_from_here(self.told.append)
        self.outflow.put([message("a", ACKED_SHARE // 2), message("b", ACKED_SHARE // 2)])
        self.assertEqual(["a"], self.sent)
        self.assertTrue(self.pipe.paused)

    def test_dropping_takes_everything_back(self) -> None:
        self.outflow.put([message("a", PIPE_SHARE), message("b", PIPE_SHARE), message("c")])
        done = self.outflow.finish()
        self.assertNoResult(done)
        self.outflow.drop()
        self.successResultOf(done)
        self.assertEqual(["a", "b", "c"], self.sent)
        self.outflow.put([message("d")])
        self.successResultOf(self.outflow.finish())

    @given(st.lists(st.one_of(st.integers(0, 40_000), st.none(), st.just(-1)), max_size=200))
    @settings(max_examples=60, deadline=None)
    def test_every_message_is_sent_once_in_order_whatever_happens_when(self, steps: list[int | None]) -> None:
        self.setUp()
        put = 0
        for step in steps:
            if step is None or step < 0:
                if self.waiting:
                    waiting = self.waiting.popleft() if step is None else self.waiting.pop()
                    waiting.callback(None)
            elif not self.pipe.paused:
                self.outflow.put([message(str(put), step)])
                put += 1
        while self.waiting:
            self.accept()
        self.assertEqual([str(number) for number in range(put)], self.sent)
        self.assertFalse(self.pipe.paused)
        self.successResultOf(self.outflow.finish())
