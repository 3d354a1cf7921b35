"""client-https 6 and client-tests H: the streaming communicator, on a clock."""

from __future__ import annotations

import contextlib
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms import streaming
from fleetspeak.client.comms.session import MAX_IN_FLIGHT
from fleetspeak.client.comms.streaming import FAREWELL, LIFE, START_TIMEOUT, StreamingCommunicator
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common
from fleetspeak.testing.clientside import FakeLink
from fleetspeak.wire import contact, streamframes, varint
from fleetspeak.wire.streamframes import MAX_SERVER_RECORD
from tests.client.comms import memory
from tests.client.comms.memory import Network, Stream, message
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
    def test_the_first_record_has_what_is_ready_and_all_tokens(self) -> None:
        """client-tests 68."""
        self.link.flow.add_service("system")
        self.send("early")
        self.begin()
        self.assertEqual(self.stream.names, [["early"]])
        self.assertEqual(self.stream.contacts[0].sequencing_nonce, 0)
        self.assertEqual(dict(self.stream.contacts[0].AllowedMessages), {"system": 100})
        self.assertEqual(self.acked, [])
        self.stream.open(message("for us"), nonce=777)
        self.assertEqual(self.acked, ["early"])
        self.assertEqual((self.link.nonce, self.link.servers), (777, ["server0:443"]))
        self.assertEqual([received.message_type for received in self.link.messages], ["for us"])

    def test_ten_messages_of_one_turn_are_one_record(self) -> None:
        """client-tests 69: and the callbacks run in order."""
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

    def test_tokens_are_told_without_a_message_when_many_were_used(self) -> None:
        """client-tests 70 and 76."""
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

    def test_a_slow_line_gets_smaller_records(self) -> None:
        """client-tests 71: 100 KB/s; no record should take more than 10 s, so six of 300 KiB go as 3 + 3."""
        stream = self.begin_stream()
        stream.fills_up = True
        self.send("big", size=512 * KIB)
        self.clock.advance(5.12)
        stream.drain()
        self.send(*"abcdef", size=300 * KIB)
        self.clock.advance(9.2)
        stream.drain()
        self.assertEqual(stream.names, [[], ["big"], ["a", "b", "c"], ["d", "e", "f"]])

    def test_a_fast_line_gets_records_of_seven_and_a_half_mebibytes(self) -> None:
        """client-tests 72: ten of 1 MiB go as 7 + 3."""
        stream = self.begin_stream()
        stream.fills_up = True
        self.send("big", size=512 * KIB)
        self.clock.advance(0.1)
        stream.drain()
        self.send(*"abcdefghij", size=KIB * KIB)
        self.clock.advance(1.4)
        stream.drain()
        self.assertEqual([len(names) for names in stream.names], [0, 1, 7, 3])

    def test_messages_of_the_server_are_taken_as_they_come(self) -> None:
        stream = self.begin_stream()
        stream.send(common.ContactData(sequencing_nonce=99, messages=[message("x")]))
        self.assertEqual([received.message_type for received in self.link.messages], ["x"])
        self.assertEqual(self.link.nonce, 7)


class EndTests(StreamingTestCase):
    def test_done_sending_lets_the_acks_come_and_then_closes(self) -> None:
        """client-tests 78."""
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

    def test_with_nothing_unacknowledged_done_sending_closes_at_once(self) -> None:
        """client-tests 78: what came with it counts all the same."""
        stream = self.begin_stream()
        self.send("a")
        stream.send(common.ContactData(done_sending=True, ack_index=1, messages=[message("last words")]))
        self.assertTrue(stream.ended)
        self.assertEqual(self.acked, ["a"])
        self.assertEqual(len(self.link.messages), 1)

    def test_after_an_announced_end_the_next_stream_follows_at_once(self) -> None:
        stream = self.begin_stream()
        self.clock.advance(600)
        stream.send(common.ContactData(done_sending=True))
        self.assertEqual(len(self.network.streams), 2)

    def test_what_was_not_acknowledged_goes_on_the_next_stream(self) -> None:
        """client-tests 78: the same messages with the same ids."""
        stream = self.begin_stream()
        self.clock.advance(60)
        self.send("a")
        self.send("b")
        stream.acknowledge(1)
        stream.close()
        self.assertEqual(self.stream.names, [["b"]])
        self.assertEqual(self.stream.contacts[0].messages[0].source_message_id, b"b")
        self.stream.open()
        self.assertEqual(self.acked, ["a", "b"])

    def test_an_ack_of_the_wrong_record_ends_the_stream(self) -> None:
        """Taking it for another one's would lose messages."""
        for index in (2, 3, 2**64 - 1):
            stream = self.begin_stream()
            self.send("a")
            stream.acknowledge(index)
            self.assertTrue(stream.aborted)
            self.assertEqual(self.acked, [])
            self.setUp()

    def test_a_record_over_the_limit_ends_the_stream_from_its_length(self) -> None:
        """client-tests 81."""
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
        self.assertEqual(len(self.network.streams), 2)

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


class OpeningTests(StreamingTestCase):
    def test_the_next_server_is_tried_and_comes_first_from_then_on(self) -> None:
        """client-tests 57: with the messages of the first attempt."""
        self.send("m")
        self.begin(servers=2)
        self.stream.refuse(503)
        self.assertEqual((self.stream.server, self.stream.names), ("server1:443", [["m"]]))
        self.stream.open()
        self.clock.advance(60)
        self.stream.close()
        self.assertEqual(self.stream.server, "server1:443")
        self.assertEqual(self.link.attempts, ["server0:443", "server1:443", "server1:443"], "the watchdog is told")

    def test_an_empty_answer_is_a_refusal(self) -> None:
        """So upstream's server refuses: status 200, and nothing."""
        self.send("m")
        self.begin()
        self.network.streams[0].response.callback(memory.WholeResponse(200, b""))
        self.clock.advance(15)
        self.assertEqual((len(self.network.streams), self.stream.names), (2, [["m"]]))

    def test_a_server_that_never_answers_is_given_up(self) -> None:
        self.begin(servers=2)
        self.clock.advance(START_TIMEOUT)
        self.assertTrue(self.network.streams[0].aborted)
        self.assertEqual(self.stream.server, "server1:443")

    def test_failures_keep_their_distance(self) -> None:
        self.network.reachable = False
        self.begin()
        self.clock.pump([0.5] * 200)
        self.assertEqual(self.network.attempts, 1 + 100 // 12.5)

    def test_never_reachable_for_too_long(self) -> None:
        """client-tests 82."""
        self.network.reachable = False
        self.begin(failure_suicide_time_seconds=1, min_failure_delay_seconds=1)
        for _ in range(4):
            self.clock.advance(0.5)
        self.assertEqual([status for _, status in self.link.gave_up][:1], [2])

    def test_a_server_that_accepts_and_closes_is_not_hammered(self) -> None:
        """client-tests 79: growing delays, with or without an announcement."""
        for announced in (False, True):
            self.setUp()
            self.begin(min_failure_delay_seconds=60)
            times = []
            while self.clock.seconds() < 120:
                if not self.stream.is_over:
                    times.append(self.clock.seconds())
                    self.stream.open()
                    if announced:
                        self.stream.send(common.ContactData(done_sending=True))
                    else:
                        self.stream.close()
                self.clock.advance(0.25)
            gaps = [after - before for before, after in itertools.pairwise(times)]
            self.assertEqual(gaps, [0.5, 1, 2, 4, 8, 16, 30, 30])

    def test_a_stream_that_lived_makes_up_for_it(self) -> None:
        self.begin_stream().close()
        self.clock.advance(0.5)
        self.stream.open()
        self.clock.advance(60)
        self.stream.close()
        self.assertEqual(len(self.network.streams), 3)
        self.stream.open()
        self.stream.close()
        self.clock.advance(0.5)
        self.assertEqual(len(self.network.streams), 4)


class ResetTests(StreamingTestCase):
    def test_a_reset_makes_a_new_stream_at_once(self) -> None:
        """client-tests 74."""
        stream = self.begin_stream()
        self.send("m")
        self.communicator.reset()
        self.assertTrue(stream.aborted)
        self.assertEqual((len(self.network.streams), self.stream.names), (2, [["m"]]))

    def test_a_reset_of_a_hanging_connection(self) -> None:
        """client-tests 73: and of a request without an answer."""
        self.network.hangs = True
        communicator = self.begin()
        communicator.reset()
        self.assertEqual(self.network.attempts, 2)
        self.network.hangs = False
        communicator.reset()
        communicator.reset()
        self.assertEqual((self.network.attempts, len(self.network.streams)), (4, 2))

    def test_a_reset_ends_the_wait_after_a_failure(self) -> None:
        self.network.reachable = False
        communicator = self.begin()
        communicator.reset()
        self.assertEqual(self.network.attempts, 2)

    def test_a_rekey_reconnects_as_the_new_client(self) -> None:
        """client-tests 80; what was sent is sent again, and acked once."""
        stream = self.begin_stream()
        self.send("m")
        stream.send(common.ContactData(ack_index=1, messages=[message("rekey")]))
        self.assertTrue(stream.aborted)
        self.assertEqual(self.stream.client_id, self.link.identity.client_id)
        self.assertEqual((self.acked, self.stream.names), ([], [["m"]]))
        self.stream.open()
        self.assertEqual(self.acked, ["m"])

    def test_a_rekey_in_the_very_first_answer(self) -> None:
        self.send("m")
        self.begin()
        self.stream.open(message("rekey"))
        self.assertEqual(self.stream.client_id, self.link.identity.client_id)
        self.assertEqual((len(self.network.streams), self.stream.names), (2, [["m"]]))
        self.stream.open()
        self.assertEqual(self.acked, ["m"])


class StopTests(StreamingTestCase):
    def stop(self, communicator: StreamingCommunicator) -> Deferred[None]:
        return Deferred.fromCoroutine(communicator.stop())

    def test_with_nothing_to_deliver_it_ends_at_once(self) -> None:
        stream = self.begin_stream()
        self.successResultOf(self.stop(self.communicator))
        self.assertTrue(stream.ended)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_is_left_is_delivered(self) -> None:
        """client-tests 58, for a stream: all of it, and confirmed."""
        stream = self.begin_stream()
        names = [str(number) for number in range(100)]
        for name in names:
            self.link.outbox.submit(message(name), lambda name=name: self.acked.append(name))  # type: ignore[misc]
        stopped = self.stop(self.communicator)
        self.assertNoResult(stopped)
        for index in range(1, len(stream.contacts)):
            stream.acknowledge(index)
        self.successResultOf(stopped)
        self.assertEqual(self.acked, names)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_server_that_hangs_holds_it_up_for_a_few_seconds_only(self) -> None:
        stream = self.begin_stream()
        self.send("left")
        stopped = self.stop(self.communicator)
        self.clock.advance(FAREWELL)
        self.successResultOf(stopped)
        self.assertTrue(stream.aborted)
        self.assertEqual((self.acked, self.clock.getDelayedCalls()), ([], []))

    def test_a_stream_that_is_being_opened_still_delivers(self) -> None:
        self.send("left")
        stopped = self.stop(self.begin())
        self.assertNoResult(stopped)
        self.stream.open()
        self.successResultOf(stopped)
        self.assertEqual((self.acked, self.stream.ended), (["left"], True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_without_anything_to_deliver_nobody_waits_for_a_stream(self) -> None:
        stopped = self.stop(self.begin())
        self.successResultOf(stopped)
        self.assertTrue(self.stream.aborted)

    def test_a_refusal_while_it_stops(self) -> None:
        self.send("left")
        stopped = self.stop(self.begin(servers=2))
        self.stream.refuse(500)
        self.successResultOf(stopped)
        self.assertEqual((len(self.network.streams), self.clock.getDelayedCalls()), (1, []))

    def test_while_it_waits_after_a_failure(self) -> None:
        self.network.reachable = False
        self.successResultOf(self.stop(self.begin()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_before_it_was_started(self) -> None:
        communicator = StreamingCommunicator(self.link, memory.settings(), self.clock)
        self.successResultOf(self.stop(communicator))


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
