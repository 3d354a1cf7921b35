"""The outbox: senders wait while it is full, nothing is lost, nothing overtakes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.outbox import MAX_MESSAGE, ClientOutbox, OutboxClosed
from fleetspeak.core.outbox import MAX_PENDING_COUNT, Entry
from fleetspeak.pb import common

PLENTY = 1 << 40


def message(label: str, priority: int = common.Message.MEDIUM) -> common.Message:
    return common.Message(message_type=label, priority=common.Message.Priority.ValueType(priority))


def labels(entries: list[Entry]) -> list[str]:
    return [entry.message.message_type for entry in entries]


class OutboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outbox = ClientOutbox()

    def fill(self) -> None:
        for number in range(MAX_PENDING_COUNT):
            self.successResultOf(self.outbox.submit(message(str(number))))

    def test_an_unknown_priority_becomes_medium(self) -> None:
        odd = message("odd", 17)
        self.successResultOf(self.outbox.submit(odd))
        self.assertEqual(odd.priority, common.Message.MEDIUM)

    def test_a_message_that_could_never_leave_is_refused(self) -> None:
        """It would come back from every contact and hold up everything behind it."""
        large = message("large")
        large.data.value = bytes(MAX_MESSAGE)
        self.failureResultOf(self.outbox.submit(large), ValueError)
        self.successResultOf(self.outbox.submit(message("small")))
        self.assertEqual(labels(self.outbox.take(100, PLENTY)), ["small"])

    def test_the_101st_waits_for_room_and_other_priorities_do_not(self) -> None:
        self.fill()
        waiting = self.outbox.submit(message("late"))
        self.assertNoResult(waiting)
        self.successResultOf(self.outbox.submit(message("urgent", common.Message.HIGH)))
        self.outbox.ack(self.outbox.take(2, PLENTY))
        self.successResultOf(waiting)

    def test_who_waits_is_not_overtaken(self) -> None:
        self.fill()
        first = self.outbox.submit(message("first"))
        second = self.outbox.submit(message("second"))
        self.outbox.ack(self.outbox.take(1, PLENTY))
        self.successResultOf(first)
        self.assertNoResult(second)

    def test_cancelling_takes_the_message_back(self) -> None:
        self.fill()
        waiting = self.outbox.submit(message("late"))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.outbox.ack(self.outbox.take(100, PLENTY))
        self.assertEqual(self.outbox.take(100, PLENTY), [])

    def test_ready_fires_for_a_new_message_for_a_nacked_one_and_for_one_that_waited(self) -> None:
        ready = self.outbox.when_ready()
        self.assertNoResult(ready)
        self.fill()
        self.successResultOf(ready)
        self.successResultOf(self.outbox.when_ready())
        taken = self.outbox.take(100, PLENTY)
        ready = self.outbox.when_ready()
        self.outbox.nack(taken)
        self.successResultOf(ready)
        taken = self.outbox.take(100, PLENTY)
        self.outbox.submit(message("late"))
        ready = self.outbox.when_ready()
        self.assertNoResult(ready)
        self.outbox.ack(taken)
        self.successResultOf(ready)

    def test_waiting_for_ready_can_be_cancelled(self) -> None:
        ready = self.outbox.when_ready()
        ready.cancel()
        self.failureResultOf(ready, CancelledError)
        self.outbox.submit(message("a"))

    def test_item_69_acks_are_told_in_order_and_one_that_fails_does_not_stop_the_rest(self) -> None:
        told: list[str] = []

        def fail() -> None:
            raise ZeroDivisionError

        self.outbox.submit(message("a"), lambda: told.append("a"))
        self.outbox.submit(message("b"), fail)
        self.outbox.submit(message("c"), lambda: told.append("c"))
        self.outbox.ack(self.outbox.take(100, PLENTY))
        self.assertEqual(told, ["a", "c"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_closed_outbox_takes_nothing(self) -> None:
        self.fill()
        waiting = self.outbox.submit(message("late"))
        self.outbox.close()
        self.failureResultOf(waiting, OutboxClosed)
        self.failureResultOf(self.outbox.submit(message("later", common.Message.HIGH)), OutboxClosed)

    @given(st.lists(st.sampled_from(["submit", "take", "ack", "nack", "cancel"]), max_size=400))
    @settings(max_examples=40, deadline=None)
    def test_nothing_is_lost_or_doubled_whatever_happens_when(self, steps: list[str]) -> None:
        outbox = ClientOutbox()
        told: list[int] = []
        submitted: dict[int, Deferred[None]] = {}
        cancelled: set[int] = set()
        taken: list[Entry] = []
        for number, step in enumerate(step for step in steps for _ in range(5)):
            if step == "submit":
                submitted[number] = outbox.submit(message(str(number)), lambda number=number: told.append(number))
            elif step == "take":
                taken += outbox.take(3, PLENTY)
            elif step in ("ack", "nack"):
                some, taken = taken[:3], taken[3:]
                outbox.ack(some) if step == "ack" else outbox.nack(some)
            else:
                late = next((n for n, accepted in submitted.items() if not accepted.called), None)
                if late is not None:
                    submitted[late].addErrback(lambda failure: failure.trap(CancelledError))
                    submitted[late].cancel()
                    cancelled.add(late)
            self.assertLessEqual(outbox.pending(common.Message.MEDIUM)[0], MAX_PENDING_COUNT)
        while taken := taken + outbox.take(100, PLENTY):
            outbox.ack(taken)
            taken = []
        self.assertEqual(sorted(told), sorted(submitted.keys() - cancelled))
