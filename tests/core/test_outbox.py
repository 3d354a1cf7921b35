"""client-tests, section D: the queues of messages to the server."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.outbox import MAX_PENDING_BYTES, MAX_PENDING_COUNT, Entry, OutboxLedger
from fleetspeak.pb import common
from tests.core.machines import explore

HIGH, MEDIUM, LOW = common.Message.HIGH, common.Message.MEDIUM, common.Message.LOW
MIB = 1024 * 1024
ALL = 10**9


def _message(name: str = "", priority: common.Message.Priority.ValueType = MEDIUM) -> common.Message:
    return common.Message(message_type=name, priority=priority)


def _names(entries: Sequence[Entry]) -> list[str]:
    return [entry.message.message_type for entry in entries]


class OutboxLedgerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ledger = OutboxLedger()

    def _fill(self, count: int, size: int) -> list[str]:
        names = [str(number) for number in range(count)]
        for name in names:
            self.ledger.add(_message(name), size)
        return names

    def test_messages_come_in_order_and_are_gone_when_acked(self) -> None:
        """client-tests 32."""
        names = self._fill(10, 5)
        entries = self.ledger.take(100, ALL)
        self.assertEqual(_names(entries), names)
        self.ledger.ack(entries)
        self.assertFalse(self.ledger.ready)
        self.assertEqual(self.ledger.take(100, ALL), [])

    def test_what_is_nacked_comes_again_in_order(self) -> None:
        """client-tests 33."""
        names = self._fill(10, 5)
        self.ledger.nack(self.ledger.take(100, ALL))
        entries = self.ledger.take(100, ALL)
        self.assertEqual(_names(entries), names)
        self.ledger.ack(entries)
        self.assertFalse(self.ledger.ready)

    def test_a_hundred_small_ones_fit(self) -> None:
        """client-tests 34."""
        self._fill(100, 5)
        self.assertFalse(self.ledger.accepts(MEDIUM))
        self.assertRaises(ValueError, self.ledger.add, _message(), 5)
        self.assertTrue(self.ledger.accepts(HIGH))
        self.ledger.ack(self.ledger.take(1, ALL))
        self.assertTrue(self.ledger.accepts(MEDIUM))

    def test_twenty_of_one_mebibyte_fit(self) -> None:
        """client-tests 34."""
        self._fill(20, MIB)
        self.assertFalse(self.ledger.accepts(MEDIUM))

    def test_the_last_one_may_exceed_the_bytes(self) -> None:
        self._fill(1, MAX_PENDING_BYTES - 1)
        self.assertTrue(self.ledger.accepts(MEDIUM))
        self.ledger.add(_message(), MIB)
        self.assertFalse(self.ledger.accepts(MEDIUM))

    def test_pending_counts_until_the_ack(self) -> None:
        """client-tests 35."""
        self._fill(10, 7)
        entries = self.ledger.take(100, ALL)
        self.assertEqual(self.ledger.pending(MEDIUM), (10, 70))
        self.ledger.ack(entries)
        self.assertEqual(self.ledger.pending(MEDIUM), (0, 0))

    def test_priority_first_and_then_age(self) -> None:
        """client-tests 36."""
        for name in ("L1", "M2", "H3", "H4", "M5", "L6"):
            self.ledger.add(_message(name, {"L": LOW, "M": MEDIUM, "H": HIGH}[name[0]]), 1)
        self.assertEqual(_names(self.ledger.take(100, ALL)), ["H3", "H4", "M2", "M5", "L1", "L6"])

    def test_as_many_as_fit_and_the_first_one_always(self) -> None:
        self._fill(5, 10)
        self.assertEqual(len(self.ledger.take(100, 0)), 1)
        self.assertEqual(len(self.ledger.take(100, 29)), 2)
        self.assertEqual(len(self.ledger.take(1, ALL)), 1)
        self.assertEqual(self.ledger.take(0, ALL), [])

    def test_a_big_one_is_not_overtaken(self) -> None:
        self.ledger.add(_message("small", HIGH), 1)
        self.ledger.add(_message("big", MEDIUM), 100)
        self.ledger.add(_message("smaller", LOW), 1)
        self.assertEqual(_names(self.ledger.take(100, 50)), ["small"])
        self.assertEqual(_names(self.ledger.take(100, 50)), ["big"])

    def test_what_was_not_taken_cannot_be_acked_nor_anything_twice(self) -> None:
        entry = self.ledger.add(_message(), 1)
        self.assertRaises(ValueError, self.ledger.ack, [entry])
        self.ledger.take(1, ALL)
        self.assertRaises(ValueError, self.ledger.ack, [entry, entry])
        self.ledger.ack([entry])
        self.assertRaises(ValueError, self.ledger.ack, [entry])
        self.assertRaises(ValueError, self.ledger.nack, [entry])
        self.assertEqual(self.ledger.pending(MEDIUM), (0, 0))

    def test_a_priority_that_is_none_is_refused(self) -> None:
        message = common.Message()
        message.priority = 7  # type: ignore[assignment]
        self.assertRaises(ValueError, self.ledger.add, message, 1)

    def test_no_sequence_of_steps_breaks_it(self) -> None:
        explore(_AnyUse)


class _AnyUse(RuleBasedStateMachine):
    """The ledger beside the simplest model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = OutboxLedger()
        self.lines: dict[int, deque[Entry]] = {HIGH: deque(), MEDIUM: deque(), LOW: deque()}
        self.out: list[Entry] = []

    @rule(
        priority=st.sampled_from([HIGH, MEDIUM, LOW]),
        size=st.sampled_from([0, 1, 100, MIB, 7 * MIB]),
        n=st.integers(1, 40),
    )
    def add(self, priority: common.Message.Priority.ValueType, size: int, n: int) -> None:
        for _ in range(n):
            if self.ledger.accepts(priority):
                self.lines[priority].append(self.ledger.add(_message("", priority), size))

    @rule(count=st.integers(0, 120), size=st.sampled_from([0, 50, MIB, 15 * MIB, ALL]))
    def take(self, count: int, size: int) -> None:
        taken = self.ledger.take(count, size)
        assert len(taken) <= count
        assert sum(entry.size for entry in taken) <= size or len(taken) == 1
        for entry in taken:
            highest = next(line for line in self.lines.values() if line)
            assert highest.popleft() is entry
        self.out += taken

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def bring_back(self, data: st.DataObject) -> None:
        some = data.draw(st.integers(1, len(self.out)))
        back, self.out = self.out[:some], self.out[some:]
        if data.draw(st.booleans()):
            self.ledger.ack(back)
        else:
            self.ledger.nack(back)
            for entry in back:
                self.lines[entry.priority].append(entry)

    @invariant()
    def nothing_is_lost_and_no_limit_exceeded(self) -> None:
        out = Counter(entry.priority for entry in self.out)
        assert self.ledger.ready == any(self.lines.values())
        for priority, line in self.lines.items():
            count, size = self.ledger.pending(common.Message.Priority.ValueType(priority))
            mine = [*line, *(entry for entry in self.out if entry.priority == priority)]
            assert count == len(line) + out[common.Message.Priority.ValueType(priority)] <= MAX_PENDING_COUNT
            assert size == sum(entry.size for entry in mine)
            assert size < MAX_PENDING_BYTES + max((entry.size for entry in mine), default=1)
