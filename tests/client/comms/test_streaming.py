"""client-https 6 and client-tests H: the streaming communicator, on a clock."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms import streaming
from fleetspeak.client.comms.session import MAX_IN_FLIGHT
from fleetspeak.client.comms.streaming import LIFE, StreamingCommunicator
from fleetspeak.client.stats import Stats
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common
from fleetspeak.testing.clientside import FakeLink
from fleetspeak.wire import contact, streamframes, varint
from fleetspeak.wire.streamframes import MAX_SERVER_RECORD
from tests.client.comms import memory
from tests.client.comms.memory import Heard, Network, Stream, message
from tests.client.comms.test_polling import RekeyedLink
from tests.core.machines import explore

KIB = 1024


class StreamingTestCase(SynchronousTestCase):
    u = 0.5

    def setUp(self) -> None:
        self.clock, self.network, self.link = Clock(), Network(), RekeyedLink()
        self.patch(streaming, "Transport", self.network.transport)
        self.acked: list[str] = []

    def begin(self, servers: int = 1, **config: int) -> StreamingCommunicator:
        communicator = StreamingCommunicator(self.link, memory.settings(servers, **config), self.clock, lambda: self.u)
        self.link.communicator = communicator
        communicator.start()
        return communicator

    def begin_stream(self) -> Stream:
        """A communicator, and its first stream."""
        self.communicator = self.begin()
        stream = self.stream
        stream.open()
        return stream

    @property
    def stream(self) -> Stream:
        """The newest one."""
        return self.network.streams[-1]

    def send(self, *names: str, size: int = 0) -> None:
        """Send messages in one turn of the reactor, and let it turn."""
        for name in names:
            sent = message(name)
            sent.data.value = bytes(size)
            self.link.outbox.submit(sent, lambda name=name: self.acked.append(name))  # type: ignore[misc]
        self.turn()

    def turn(self) -> None:
        """One turn of the reactor."""
        self.clock.advance(0)


class RecordTests(StreamingTestCase):
    def test_item_68_the_first_record_has_what_is_ready_and_all_tokens(self) -> None:
        self.link.flow.add_service("system")
        self.link.flow.add_service("NOOPService")
        self.send("early")
        self.begin()
        self.assertEqual(self.stream.names, [["early"]])
        self.assertEqual(self.stream.contacts[0].sequencing_nonce, 0)
        self.assertEqual(dict(self.stream.contacts[0].AllowedMessages), {"NOOPService": 100, "system": 100})
        self.assertEqual(self.acked, [])
        self.stream.open(message("for us"), nonce=777)
        self.assertEqual(self.acked, ["early"])
        self.assertEqual((self.link.nonce, self.link.servers), (777, ["server0:443"]))
        self.assertEqual([received.message_type for received in self.link.messages], ["for us"])

    def test_item_69_ten_messages_of_one_turn_are_one_record(self) -> None:
        """And the callbacks run in order."""
        stream = self.begin_stream()
        names = [str(number) for number in range(10)]
        self.send(*names)
        self.assertEqual(stream.names, [[], names])
        stream.acknowledge(1)
        self.assertEqual(self.acked, names)

    def test_an_idle_stream_sends_at_once(self) -> None:
        stream = self.begin_stream()
        for name in "abc":
            self.send(name)
        self.assertEqual((stream.names, self.clock.seconds()), ([[], ["a"], ["b"], ["c"]], 0))

    def test_item_70_tokens_are_told_without_a_message_when_many_were_used(self) -> None:
        self.link.flow.add_service("NOOPService")
        stream = self.begin_stream()
        for _ in range(35):
            self.link.flow.accepted("NOOPService")
            self.link.flow.processed("NOOPService")
            self.turn()
        self.send("m")
        grants = [contact.AllowedMessages["NOOPService"] for contact in stream.contacts]
        self.assertEqual(grants, [100, 32, 3])
        self.assertEqual(stream.names, [[], [], ["m"]])
        self.assertTrue(32 <= sum(grants[1:]) <= 35)

    def test_item_76_later_records_list_all_services_zeros_included(self) -> None:
        self.link.flow.add_service("system")
        self.link.flow.add_service("NOOPService")
        stream = self.begin_stream()
        self.send("m")
        self.assertEqual(dict(stream.contacts[1].AllowedMessages), {"NOOPService": 0, "system": 0})

    def test_messages_gather_while_the_transport_is_full(self) -> None:
        stream = self.begin_stream()
        stream.fills_up = True
        self.send("a")
        self.send("b")
        self.send("c", "d")
        self.assertEqual(stream.names, [[], ["a"]])
        stream.drain()
        self.assertEqual(stream.names, [[], ["a"], ["b", "c", "d"]])

    def test_messages_gather_while_many_records_are_not_acknowledged(self) -> None:
        stream = self.begin_stream()
        for number in range(MAX_IN_FLIGHT + 5):
            self.send(str(number))
        self.assertEqual(len(stream.names), 1 + MAX_IN_FLIGHT)
        stream.acknowledge(1)
        self.assertEqual(stream.names[-1], [str(number) for number in range(MAX_IN_FLIGHT, MAX_IN_FLIGHT + 5)])

    def test_item_71_a_slow_link(self) -> None:
        """100 KB/s: 0.5 MiB alone in its record, then six of 300 KiB as 4 + 2: ten seconds of it fill a record."""
        arrivals = self.through_a_link_of(100 * 1000, 300 * KIB, "abcdef")
        self.assertEqual([names for names, _ in arrivals], [["big"], ["a", "b", "c", "d"], ["e", "f"]])
        self.assertTrue(all(took <= limit for (_, took), limit in zip(arrivals, (10, 15, 15), strict=True)), arrivals)

    def test_item_72_a_fast_link(self) -> None:
        """5 MiB/s: 0.5 MiB, then ten of 1 MiB as 8 + 2: a record is full with 7.5 MiB."""
        arrivals = self.through_a_link_of(5 * KIB * KIB, KIB * KIB, "abcdefghij")
        self.assertEqual([len(names) for names, _ in arrivals], [1, 8, 2])
        self.assertTrue(all(took <= 10 for _, took in arrivals), arrivals)

    def through_a_link_of(self, rate: float, size: int, names: str) -> list[tuple[list[str], float]]:
        """Send a message of 0.5 MiB, and when it has arrived the named ones of `size` bytes.

        @return: the messages of each record, and the seconds from its beginning until it had arrived.
        """
        stream = self.begin_stream()
        stream.rate = (rate, self.clock)
        self.send("big", size=512 * KIB)
        self.clock.pump([0.01] * 700)
        self.send(*names, size=size)
        self.clock.pump([0.01] * 3000)
        return list(zip(stream.names[1:], stream.took, strict=True))

    def test_messages_of_the_server_are_taken_as_they_come(self) -> None:
        stream = self.begin_stream()
        stream.send(common.ContactData(sequencing_nonce=99, messages=[message("x")]))
        self.assertEqual([received.message_type for received in self.link.messages], ["x"])
        self.assertEqual(self.link.nonce, 7)


class EndTests(StreamingTestCase):
    def test_item_78_done_sending_lets_the_acks_come_and_then_closes(self) -> None:
        stream = self.begin_stream()
        self.send("a")
        self.send("b")
        stream.send(common.ContactData(done_sending=True, messages=[message("last words")]))
        self.assertEqual([received.message_type for received in self.link.messages], ["last words"])
        self.send("not on this stream any more")
        stream.acknowledge(1)
        stream.send(common.ContactData(done_sending=True))
        self.assertFalse(stream.is_over)
        stream.acknowledge(2)
        self.assertTrue(stream.ended)
        self.assertEqual((stream.names, self.acked), ([[], ["a"], ["b"]], ["a", "b"]))

    def test_item_78_with_nothing_unacknowledged_done_sending_closes_at_once(self) -> None:
        """What came with it counts all the same."""
        stream = self.begin_stream()
        self.send("a")
        stream.send(common.ContactData(done_sending=True, ack_index=1, messages=[message("last words")]))
        self.assertTrue(stream.ended)
        self.assertEqual(self.acked, ["a"])
        self.assertEqual(len(self.link.messages), 1)

    def test_item_78_what_was_not_acknowledged_goes_on_the_next_stream(self) -> None:
        """The same messages with the same ids."""
        stream = self.begin_stream()
        self.clock.advance(60)
        self.send("a")
        self.send("b")
        stream.acknowledge(1)
        stream.close()
        self.clock.advance(5)
        self.assertEqual(self.stream.names, [["b"]])
        self.assertEqual(self.stream.contacts[0].messages[0].source_message_id, b"b")
        self.stream.open()
        self.assertEqual(self.acked, ["a", "b"])

    def test_item_77_streams_that_the_server_ends_lose_and_repeat_nothing(self) -> None:
        """Lifespan 10 s, closing from the third second on; what is sent twice has the same id."""
        self.begin(min_failure_delay_seconds=1)
        taken: list[bytes] = []
        for tick in range(600):
            self.clock.advance(0.1)
            if tick < 500:
                self.send(str(tick))
            serve_with_a_lifespan(self.stream, self.clock.seconds(), taken)
        self.assertGreater(len(self.network.streams), 10)
        self.assertEqual(sorted(self.acked, key=int), [str(tick) for tick in range(500)])
        self.assertEqual(set(taken), {str(tick).encode() for tick in range(500)})
        self.assertEqual([self.link.outbox.pending(priority)[0] for priority in (0, 1, 2)], [0, 0, 0])

    def test_an_ack_of_the_wrong_record_ends_the_stream(self) -> None:
        """Taking it for another one's would lose messages."""
        for index in (2, 3, 2**64 - 1):
            stream = self.begin_stream()
            self.send("a")
            stream.acknowledge(index)
            self.assertTrue(stream.aborted)
            self.assertEqual(self.acked, [])
            self.setUp()

    def test_acks_of_a_busy_go_server_come_in_any_order(self) -> None:
        stream = self.begin_stream()
        for name in ("a", "b"):
            self.send(name)
        self.assertEqual(stream.names[1:], [["a"], ["b"]])
        stream.acknowledge(2)
        self.assertEqual(self.acked, ["b"])
        stream.acknowledge(1)
        self.assertEqual(self.acked, ["b", "a"])
        self.assertFalse(stream.aborted)

    def test_item_81_a_record_over_the_limit_ends_the_stream_from_its_length(self) -> None:
        stream = self.begin_stream()
        stream.send_raw(varint.encode(MAX_SERVER_RECORD + 1))
        self.assertTrue(stream.aborted)

    def test_a_record_that_is_none_ends_the_stream(self) -> None:
        stream = self.begin_stream()
        stream.send_raw(b"\x02\xff\xff")
        self.assertTrue(stream.aborted)

    def test_an_endless_stream_is_ended(self) -> None:
        stream = self.begin_stream()
        self.clock.advance(LIFE)
        self.assertTrue(stream.aborted)
        self.assertEqual(len(self.network.streams), 2, "the next one follows at once")

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.binary(max_size=30), max_size=5))
    def test_whatever_the_server_sends_nothing_is_lost(self, pieces: list[bytes]) -> None:
        clock, network, link = Clock(), Network(), FakeLink()
        self.patch(streaming, "Transport", network.transport)
        StreamingCommunicator(link, memory.settings(), clock, lambda: 0.0).start()
        network.streams[0].open()
        link.outbox.submit(message("m"))
        clock.advance(0)
        for piece in pieces:
            if not network.streams[0].is_over:
                network.streams[0].send_raw(piece)
        count, _ = link.outbox.pending(common.Message.MEDIUM)
        acknowledged = any(contact.ack_index == 1 for contact in _records(b"".join(pieces)))
        self.assertTrue(count == 1 or acknowledged)


def _records(data: bytes) -> list[common.ContactData]:
    """Those that are well-formed."""
    found: list[common.ContactData] = []
    with contextlib.suppress(ProtocolError):
        for record in streamframes.Decoder(MAX_SERVER_RECORD, expect_magic=False).feed(data):
            found.append(contact.parse(record))
    return found


def serve_with_a_lifespan(stream: Stream, now: float, taken: list[bytes]) -> None:
    """What a server with a lifespan of 10 s and a close time of 7 s does with a stream at this moment."""
    if stream.is_over:
        return
    if not stream.response.called:
        stream.began = now
        stream.open()
    records = stream.contacts[stream.dealt_with :]
    taken += [message.source_message_id for contact in records for message in contact.messages]
    for index in range(max(stream.dealt_with, 1), len(stream.contacts)):
        stream.acknowledge(index)
    stream.dealt_with = len(stream.contacts)
    if now - stream.began >= 10:
        stream.close()
    elif now - stream.began >= 3 and not stream.is_over:
        stream.send(common.ContactData(done_sending=True))


class StatsTests(StreamingTestCase):
    def test_each_record_is_told_of_in_both_directions(self) -> None:
        heard = Heard()
        self.link.stats = Stats([heard])
        self.network.reachable = False
        self.begin(servers=2)
        self.network.reachable = True
        self.clock.advance(15)
        self.stream.open(nonce=7)
        self.send("m")
        self.stream.send_raw(b"\x02\xff\xff")
        first, second = (contact.ByteSize() for contact in self.network.streams[0].contacts)
        self.assertEqual(
            [(where, bool(error)) for where, _, error in heard.sent[:2]], [("server0:443", True), ("server1:443", True)]
        )
        self.assertEqual(
            [(where, size > first, error) for where, size, error in heard.sent[2:3]], [("server0:443", True, None)]
        )
        self.assertGreater(heard.sent[3][1], second)
        self.assertEqual(heard.received[0], ("server0:443", 2, None))
        self.assertEqual(heard.received[1][:2], ("server0:443", 2))
        self.assertIsInstance(heard.received[1][2], ProtocolError)


class AnyOrderTests(StreamingTestCase):
    def test_no_order_of_events_loses_or_repeats_an_ack(self) -> None:
        network = self.network

        class Machine(_AnyOrder):
            net = network

        self.patch(streaming, "Transport", lambda *args: Machine.net.transport(*args))
        explore(Machine)


class _AnyOrder(RuleBasedStateMachine):
    """Messages, acks, full transports, ends, resets and stops in any order."""

    net: Network

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.link = Clock(), FakeLink()
        self.network = type(self).net = Network()
        self.acked: list[str] = []
        self.sent = 0
        self.indices: dict[int, int] = {}
        self.communicator = StreamingCommunicator(self.link, memory.settings(), self.clock, lambda: 0.0)
        self.communicator.start()

    @property
    def stream(self) -> Stream | None:
        """The one that is alive."""
        last = self.network.streams[-1] if self.network.streams else None
        return None if last is None or last.is_over else last

    @rule(count=st.integers(1, 3))
    def send(self, count: int) -> None:
        for _ in range(count):
            name = str(self.sent)
            self.sent += 1
            self.link.outbox.submit(message(name), lambda name=name: self.acked.append(name))  # type: ignore[misc]
        self.clock.advance(0)

    @rule()
    def open(self) -> None:
        if self.stream is not None and not self.stream.response.called:
            self.stream.open()
            self.clock.advance(0)

    @rule()
    def acknowledge(self) -> None:
        stream = self.stream
        if stream is not None and stream.response.called:
            due = self.indices.get(id(stream), 0) + 1
            if due < len(stream.contacts):
                self.indices[id(stream)] = due
                stream.acknowledge(due)
                self.clock.advance(0)

    @rule(fills_up=st.booleans())
    def transport(self, fills_up: bool) -> None:
        if self.stream is not None:
            self.stream.fills_up = fills_up
            self.stream.drain()
            self.clock.advance(0)

    @rule()
    def done_sending(self) -> None:
        if self.stream is not None and self.stream.response.called:
            self.stream.send(common.ContactData(done_sending=True))

    @rule()
    def close(self) -> None:
        if self.stream is not None and self.stream.response.called:
            self.stream.close()
            self.clock.advance(0)

    @precondition(lambda self: self.sent)
    @rule()
    def reset(self) -> None:
        self.communicator.reset()

    @rule(seconds=st.sampled_from([0.5, 20, 800]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def every_message_is_pending_or_acked_once(self) -> None:
        assert len(set(self.acked)) == len(self.acked)
        pending, _ = self.link.outbox.pending(common.Message.MEDIUM)
        assert pending + len(self.acked) == self.sent or self.sent > 100
        assert self.communicator._running is not None
        assert not self.communicator._running.called
        assert sum(not stream.is_over for stream in self.network.streams) <= 1
