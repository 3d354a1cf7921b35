"""Acks and errors: grouped, never lost, never blocking."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.reports import ACK_GROUPING, MAX_ERROR_TEXT, MAX_WAITING_ERRORS, Reports
from fleetspeak.ids import ClientId
from fleetspeak.pb import common, system

PLENTY = 1 << 40
CLIENT = ClientId(b"\1\2\3\4\5\6\7\x08")
ID = b"00000000000000000000000000000001"


def acked(message: common.Message) -> list[bytes]:
    data = system.MessageAckData()
    assert message.data.Unpack(data)
    return list(data.message_ids)


class ReportsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.outbox = ClientOutbox()
        self.reports = Reports(self.outbox, self.clock, lambda: CLIENT)

    def taken(self) -> list[common.Message]:
        entries = self.outbox.take(1000, PLENTY)
        self.outbox.ack(entries)
        return [entry.message for entry in entries]

    def fill(self) -> None:
        for _ in range(100):
            self.successResultOf(self.outbox.submit(common.Message(priority=common.Message.HIGH)))

    def test_item_25_the_ack_message(self) -> None:
        self.reports.ack(ID)
        self.clock.advance(ACK_GROUPING)
        (message,) = self.taken()
        self.assertEqual(message.destination, common.Address(service_name="system"))
        self.assertEqual(message.source, common.Address(client_id=CLIENT, service_name="system"))
        self.assertEqual(message.message_type, "MessageAck")
        self.assertEqual(message.priority, common.Message.HIGH)
        self.assertTrue(message.background)
        self.assertEqual(len(message.source_message_id), 16)
        self.assertEqual(acked(message), [ID])

    def test_item_25_acks_within_a_second_are_one_message(self) -> None:
        self.reports.ack(b"a")
        self.clock.advance(ACK_GROUPING / 2)
        self.reports.ack(b"b")
        self.assertEqual(self.taken(), [])
        self.clock.advance(ACK_GROUPING / 2)
        self.reports.ack(b"c")
        self.assertEqual([acked(message) for message in self.taken()], [[b"a", b"b"]])
        self.clock.advance(ACK_GROUPING)
        self.assertEqual([acked(message) for message in self.taken()], [[b"c"]])

    def test_item_26_the_error_message(self) -> None:
        self.reports.error(ID, "a terrible test error")
        (message,) = self.taken()
        data = system.MessageErrorData()
        self.assertTrue(message.data.Unpack(data))
        self.assertEqual((message.message_type, message.priority), ("MessageError", common.Message.HIGH))
        self.assertTrue(message.background)
        self.assertEqual((data.message_id, data.error), (ID, "a terrible test error"))

    def test_whatever_the_text_of_an_error_is_it_can_be_sent(self) -> None:
        self.reports.error(ID, "\udcff" * 10_000_000)
        (message,) = self.taken()
        data = system.MessageErrorData()
        self.assertTrue(message.data.Unpack(data))
        self.assertEqual(data.error, "?" * MAX_ERROR_TEXT)

    def test_messages_without_id_are_not_reported(self) -> None:
        self.reports.ack(b"")
        self.reports.error(b"", "text")
        self.clock.advance(ACK_GROUPING)
        self.assertEqual(self.taken(), [])

    def test_stop_sends_the_acks_at_once(self) -> None:
        self.reports.ack(b"a")
        self.reports.flush()
        self.assertEqual([acked(message) for message in self.taken()], [[b"a"]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_acks_wait_for_room_however_long_it_takes(self) -> None:
        self.fill()
        self.reports.ack(b"a")
        self.clock.advance(ACK_GROUPING)
        self.reports.ack(b"b")
        self.clock.advance(10 * ACK_GROUPING)
        self.assertEqual([m.message_type for m in self.taken()], [""] * 100)
        self.assertEqual([acked(message) for message in self.taken()], [[b"a"]])
        self.clock.advance(ACK_GROUPING)
        self.assertEqual([acked(message) for message in self.taken()], [[b"b"]])

    def test_errors_wait_for_room_up_to_a_limit(self) -> None:
        self.fill()
        for number in range(2 * MAX_WAITING_ERRORS):
            self.reports.error(b"%d" % number, "text")
        self.taken()
        self.assertEqual(len(self.taken()), MAX_WAITING_ERRORS)
        self.reports.error(b"again", "text")
        self.assertEqual(len(self.taken()), 1)

    def test_a_closed_outbox_is_no_error(self) -> None:
        self.outbox.close()
        self.reports.error(b"a", "text")
        self.reports.ack(b"a")
        self.reports.flush()
