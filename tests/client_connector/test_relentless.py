"""The relentless protocol on the process's side (client-tests.md I 87): nothing that was sent is ever lost."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client_connector import relentless
from fleetspeak.client_connector.messages import startup_message
from fleetspeak.client_connector.relentless import MAX_RECEIVED, Relentless
from fleetspeak.client_connector.socketfile import Delays
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common, system
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelframes import MAGIC
from fleetspeak.wire.channelreader import READ_LIMIT


def local_ack(*ids: bytes) -> bytes:
    message = common.Message(message_type="LocalAck", source=common.Address(service_name="client"))
    message.data.Pack(system.MessageAckData(message_ids=ids))
    return channelframes.encode(message.SerializeToString())


def frame(message: common.Message) -> bytes:
    return channelframes.encode(message.SerializeToString())


def named(name: str) -> common.Message:
    return common.Message(message_type=name, destination=common.Address(service_name="S"))


class RelentlessCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.ids = itertools.count()
        self.machine = self.new()

    def new(self) -> Relentless:
        return Relentless(startup_message("0.5"), lambda: b"%016d" % next(self.ids))

    def written(self) -> bytes:
        return b"".join(iter(self.machine.output, b""))

    def messages(self, data: bytes) -> list[common.Message]:
        return [common.Message.FromString(body) for body in channelframes.Decoder().feed(MAGIC + data)]

    def open(self) -> None:
        """A new connection on which both have said hello."""
        self.machine.connected(0.0)
        hello = self.machine.output()
        self.assertEqual(MAGIC, hello[:4])
        self.assertEqual(["StartupData"], [each.message_type for each in self.messages(hello[4:])])
        self.machine.received(MAGIC, 0.0)


class Sending(RelentlessCase):
    def test_item_87_the_relentless_loop(self) -> None:
        """A, B, C are acked; D, E, F are not, and come again on the next connection."""
        self.open()
        for name in "ABC":
            self.machine.send(named(name))
        sent = self.messages(self.written())
        self.assertEqual(["A", "B", "C"], [message.message_type for message in sent])
        self.assertEqual([], self.machine.acked())
        ids = [message.source_message_id for message in sent]
        for message_id in ids:
            self.machine.received(local_ack(message_id), 0.0)
        self.assertEqual(ids, self.machine.acked())
        for name in "DEF":
            self.machine.send(named(name))
        self.assertEqual(3, len(self.messages(self.written())))
        self.machine.disconnected()
        self.open()
        again = self.messages(self.written())
        self.assertEqual(["D", "E", "F"], [message.message_type for message in again])
        self.machine.received(local_ack(*(message.source_message_id for message in again)), 0.0)
        self.assertEqual([], self.machine.pending_ids())

    def test_nothing_but_hello_is_written_before_the_client_has_answered(self) -> None:
        self.machine.send(named("early"))
        self.machine.connected(0.0)
        self.assertEqual(["StartupData"], [each.message_type for each in self.messages(self.written()[4:])])
        self.machine.received(MAGIC[:3], 0.0)
        self.assertEqual(b"", self.machine.output())
        self.machine.received(MAGIC[3:], 0.0)
        self.assertEqual(["early"], [each.message_type for each in self.messages(self.written())])

    def test_what_is_acked_before_its_turn_is_not_written(self) -> None:
        first, _ = self.machine.send(named("1"))
        self.machine.send(named("2"))
        self.open()
        self.machine.received(local_ack(first, b"unknown"), 0.0)
        self.assertEqual(["2"], [each.message_type for each in self.messages(self.written())])
        self.assertEqual([first], self.machine.acked())

    def test_the_callers_message_stays_as_it_is_and_its_own_id_is_used(self) -> None:
        message = named("1")
        message_id, size = self.machine.send(message)
        self.assertEqual((named("1"), message.ByteSize()), (message, size))
        self.assertEqual(b"%016d" % 0, message_id)
        message.source_message_id = b"mine"
        self.assertEqual(b"mine", self.machine.send(message)[0])
        self.machine.send(message)
        self.assertEqual(2, len(self.machine.pending_ids()))

    def test_the_table_is_bounded(self) -> None:
        self.patch(relentless, "MAX_PENDING", 2)
        first, _ = self.machine.send(named("1"))
        self.assertTrue(self.machine.has_room)
        self.machine.send(named("2"))
        self.assertFalse(self.machine.has_room)
        self.open()
        self.machine.received(local_ack(first), 0.0)
        self.assertTrue(self.machine.has_room)
        self.patch(relentless, "MAX_PENDING_BYTES", 20)
        self.assertFalse(self.machine.has_room)

    def test_what_cannot_be_sent_is_refused_and_not_kept(self) -> None:
        big = named("big")
        big.data.value = bytes(2 * 1024 * 1024)
        self.assertRaises(ValueError, self.machine.send, big)
        self.assertRaises(ValueError, self.machine.send, object())
        system_message = common.Message(destination=common.Address(service_name="system"))
        self.assertRaises(ValueError, self.machine.send, system_message)
        self.assertEqual([], self.machine.pending_ids())


class Receiving(RelentlessCase):
    def test_messages_are_read_ahead_up_to_five(self) -> None:
        self.open()
        for number in range(MAX_RECEIVED):
            self.assertTrue(self.machine.wants_data(waiting=False))
            self.machine.received(frame(named(str(number))), 0.0)
        self.assertFalse(self.machine.wants_data(waiting=False))
        self.assertTrue(self.machine.wants_data(waiting=True))
        received = self.machine.receive()
        self.assertEqual((named("0"), named("0").ByteSize()), received)
        self.assertTrue(self.machine.wants_data(waiting=False))

    def test_who_waits_for_an_ack_does_not_make_it_read_without_end(self) -> None:
        self.open()
        self.patch(relentless, "MAX_RECEIVED_BYTES", 10_000)
        count = 0
        while self.machine.wants_data(waiting=True):
            self.machine.received(frame(named("x" * 1000)), 0.0)
            count += 1
        self.assertTrue(6 < count < 10, count)
        self.assertTrue(self.machine.overfull)
        self.machine.receive()
        while self.machine.receive():
            self.assertFalse(self.machine.overfull)
        self.assertEqual(0, self.machine._inbox_bytes)

    def test_a_local_ack_of_somebody_else_is_a_message(self) -> None:
        self.open()
        of_the_server = common.Message(message_type="LocalAck", source=common.Address(service_name="client"))
        of_the_server.destination.service_name = "S"
        self.machine.received(frame(of_the_server), 0.0)
        self.assertTrue(self.machine.has_message)

    def test_a_client_that_breaks_the_protocol(self) -> None:
        self.open()
        message_id, _ = self.machine.send(named("1"))
        data = frame(named("good")) + local_ack(message_id) + b"\xff" * 8
        self.assertRaises(ProtocolError, self.machine.received, data, 0.0)
        self.assertEqual([message_id], self.machine.acked())
        self.assertTrue(self.machine.has_message)
        self.machine.disconnected()
        self.open()
        self.assertRaises(ProtocolError, self.machine.received, channelframes.encode(b"\xff\xff"), 0.0)

    def test_a_client_that_does_not_answer_in_time(self) -> None:
        self.machine.connected(100.0)
        self.assertEqual(100.0 + READ_LIMIT, self.machine.deadline)
        self.machine.check(399.0)
        self.assertRaises(ProtocolError, self.machine.check, 400.0)
        self.machine.disconnected()
        self.assertIsNone(self.machine.deadline)
        self.machine.check(500.0)

    def test_the_end(self) -> None:
        self.open()
        self.machine.received(b"", 0.0)
        self.machine.disconnected()
        self.machine.connected(0.0)
        self.assertRaises(ProtocolError, self.machine.received, b"", 0.0)


_STEPS = st.lists(
    st.one_of(
        st.just(("send",)),
        st.just(("reconnect",)),
        st.tuples(st.just("write"), st.integers(0, 400)),
        st.tuples(st.just("ack"), st.integers(0, 3)),
        st.tuples(st.just("deliver"), st.integers(1, 60)),
    ),
    max_size=60,
)


class _Client:
    """A client at the other end: takes what is written, and answers; both as far as a connection lasts."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.unacked: list[bytes] = []
        self.confirmed: set[bytes] = set()
        self.renew()

    def renew(self) -> None:
        self.decoder = channelframes.Decoder()
        self.to_process = bytearray(MAGIC)
        self.first = True
        self.unacked = []

    def take(self, data: bytes) -> None:
        for body in self.decoder.feed(data):
            message = common.Message.FromString(body)
            assert self.first == (message.message_type == "StartupData"), message
            if not self.first:
                self.arrived.append(message.message_type)
                self.unacked.append(message.source_message_id)
            self.first = False

    def ack(self, count: int) -> None:
        ids, self.unacked = self.unacked[:count], self.unacked[count:]
        if ids:
            self.confirmed.update(ids)
            self.to_process += local_ack(*ids)


class Properties(RelentlessCase):
    @settings(max_examples=200, deadline=None)
    @given(_STEPS)
    def test_each_message_arrives_at_least_once_whatever_connections_do(self, steps: list[tuple[object, ...]]) -> None:
        self.machine = self.new()
        client = _Client()
        sent: list[str] = []
        acked: set[bytes] = set()
        on_the_wire = bytearray()
        self.machine.connected(0.0)

        def write(size: int) -> None:
            while len(on_the_wire) < size and (more := self.machine.output()):
                on_the_wire.extend(more)
            client.take(bytes(on_the_wire[:size]))
            del on_the_wire[:size]

        def deliver(size: int) -> None:
            piece = bytes(client.to_process[:size])
            del client.to_process[:size]
            if piece:
                self.machine.received(piece, 0.0)
                acked.update(self.machine.acked())

        def reconnect() -> None:
            self.machine.disconnected()
            client.renew()
            on_the_wire.clear()
            self.machine.connected(0.0)

        for step in steps:
            match step:
                case ("send",):
                    sent.append(str(len(sent)))
                    self.machine.send(named(sent[-1]))
                case ("reconnect",):
                    reconnect()
                case ("write", int(size)):
                    write(size)
                case ("ack", int(count)):
                    client.ack(count)
                case ("deliver", int(size)):
                    deliver(size)
            self.assertEqual(len(sent), len(acked) + len(self.machine.pending_ids()))
            self.assertLessEqual(acked, client.confirmed)
        reconnect()
        deliver(1_000_000)
        write(1_000_000)
        client.ack(1_000_000)
        deliver(1_000_000)
        self.assertEqual([], self.machine.pending_ids())
        self.assertEqual(set(sent), set(client.arrived))

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.binary(max_size=60), max_size=10))
    def test_any_bytes_end_in_messages_or_one_clear_error(self, pieces: list[bytes]) -> None:
        machine = self.new()
        machine.connected(0.0)
        try:
            machine.received(MAGIC, 0.0)
            for piece in pieces:
                machine.received(piece, 0.0)
        except ProtocolError as error:
            self.assertTrue(str(error))


class DelaysTests(SynchronousTestCase):
    def test_the_series(self) -> None:
        delays = Delays()
        series = [round(delays.next(), 1) for _ in range(9)]
        self.assertEqual([1, 1.5, 2.2, 3.4, 5.1, 7.6, 11.4, 15, 15], series)
        delays.reset()
        self.assertEqual(1, delays.next())
