from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.ackwindow import AckWindow
from fleetspeak.core.outbox import Entry
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common
from tests.core.machines import explore


def _entry() -> Entry:
    return Entry(common.Message(), 0, None, common.Message.MEDIUM)


class AckWindowTests(SynchronousTestCase):
    def test_records_are_numbered_from_one_also_those_without_messages(self) -> None:
        window, entry = AckWindow(), _entry()
        self.assertEqual([window.sent([]), window.sent([entry]), window.sent([])], [1, 2, 3])
        self.assertEqual([window.acked(1), window.acked(2)], [[], [entry]])
        self.assertEqual((window.sent([]), len(window)), (4, 2))

    def test_acks_come_in_any_order_as_those_of_a_busy_go_server_do(self) -> None:
        window, entries = AckWindow(), [_entry() for _ in range(3)]
        for entry in entries:
            window.sent([entry])
        self.assertEqual(window.acked(2), [entries[1]])
        self.assertEqual(window.unacked(), [entries[0], entries[2]])
        self.assertEqual((window.acked(1), window.acked(3)), ([entries[0]], [entries[2]]))

    def test_an_ack_of_no_open_record_would_lose_messages_and_is_refused(self) -> None:
        window = AckWindow()
        self.assertRaises(ProtocolError, window.acked, 1)
        window.sent([])
        window.sent([])
        for wrong in (0, 3, 2**64 - 1):
            self.assertRaises(ProtocolError, window.acked, wrong)
        window.acked(1)
        self.assertRaises(ProtocolError, window.acked, 1)

    def test_no_sequence_of_steps_breaks_it(self) -> None:
        explore(_AnyUse)


class _AnyUse(RuleBasedStateMachine):
    """Every entry is either acked, once, or unacked."""

    def __init__(self) -> None:
        super().__init__()
        self.window = AckWindow()
        self.sent: list[list[Entry]] = []
        self.acked: set[int] = set()

    @rule(count=st.integers(0, 3))
    def send(self, count: int) -> None:
        entries = [_entry() for _ in range(count)]
        self.sent.append(entries)
        assert self.window.sent(entries) == len(self.sent)

    @rule(index=st.integers(0, 12))
    def ack(self, index: int) -> None:
        try:
            entries = self.window.acked(index)
        except ProtocolError:
            assert index in self.acked or not 1 <= index <= len(self.sent)
        else:
            assert index not in self.acked
            self.acked.add(index)
            assert entries == self.sent[index - 1]

    @invariant()
    def the_rest_is_unacked(self) -> None:
        still = [entries for number, entries in enumerate(self.sent, 1) if number not in self.acked]
        assert self.window.unacked() == [entry for entries in still for entry in entries]
        assert len(self.window) == len(still)
