"""One HTTP/2 connection in memory: windows, the clock, and servers that do not keep to anything."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from h2.errors import ErrorCodes
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.iweb import IResponse

from fleetspeak.client.comms.bodies import WholeBody, read_body
from fleetspeak.client.comms.h2connection import (
    CONNECTION_WINDOW,
    IDLE_TIMEOUT,
    MAX_CONTROL,
    MAX_HEADERS,
    PARTING,
    PING_AFTER,
    PING_LIMIT,
    STREAM_WINDOW,
    H2Connection,
)
from fleetspeak.client.comms.h2stream import PARTING as STREAM_PARTING
from fleetspeak.client.comms.h2stream import H2Stream
from fleetspeak.errors import NotProcessed, ProtocolError
from tests.wire.pieces import CUTS, cut
from tests.wire.test_h2frames import frame, goaway

OK = [(":status", "200")]


class Wire(StringTransport):
    """A connection on which HTTP/2 was chosen."""

    negotiatedProtocol: bytes | None = b"h2"  # noqa: N815
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class Body(Protocol):
    """Keeps what comes; reads on only when it is told to, if it is slow."""

    def __init__(self, *, slow: bool = False) -> None:
        self.data = b""
        self.end: BaseException | None = None
        self._slow = slow

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self._slow:
            self.transport.pauseProducing()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.end is None, "told twice"
        self.end = reason.value


def data_in(events: list[Any]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))


class H2Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        self.clock, self.wire, self.drained = Clock(), Wire(), 0
        self.connection = H2Connection(self.clock)
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        self.connection.makeConnection(self.wire)
        self.server.initiate_connection()
        self.exchange()

    def exchange(self) -> list[Any]:
        """Bring bytes back and forth until there are none; returns what the server saw."""
        events: list[Any] = []
        while True:
            sent = self.wire.value()
            self.wire.clear()
            if sent:
                events += self.server.receive_data(sent)
            answer = self.server.data_to_send()
            if answer:
                self.connection.dataReceived(answer)
            elif not self.wire.value():
                return events

    def begin(self) -> H2Stream:
        def on_drained() -> None:
            self.drained += 1

        return self.connection.begin("POST", "server:443", "/streaming-message", [(b"X-Cert", [b"pem"])], on_drained)

    def answered(self, stream: H2Stream, *, slow: bool = False) -> Body:
        self.exchange()
        self.server.send_headers(stream.number, OK)
        self.exchange()
        body = Body(slow=slow)
        self.successResultOf(stream.response).deliverBody(body)
        return body

    def get(self) -> Deferred[IResponse]:
        return self.connection.request("GET", "server:443", "/files/S/f", [], None)

    def pending_calls(self) -> list[Any]:
        return self.clock.getDelayedCalls()


class RequestTests(H2Case):
    def test_a_whole_request_and_its_response(self) -> None:
        response = self.connection.request(
            "POST", "server:443", "/message", [(b"X-Cert", [b"pem"])], WholeBody(b"hello")
        )
        events = self.exchange()
        [request] = [event for event in events if isinstance(event, h2.events.RequestReceived)]
        self.assertEqual(
            [(str(name), str(value)) for name, value in request.headers],
            [
                (":method", "POST"),
                (":authority", "server:443"),
                (":scheme", "https"),
                (":path", "/message"),
                ("x-cert", "pem"),
                ("content-length", "5"),
            ],
        )
        self.assertEqual(data_in(events), b"hello")
        self.server.send_headers(1, [(":status", "100")])
        self.server.send_headers(1, [(":status", "200"), ("content-length", "3"), ("x-more", "1"), ("x-more", "2")])
        self.server.send_data(1, b"abc")
        self.server.send_headers(1, [("trailer", "1")], end_stream=True)
        self.exchange()
        head = self.successResultOf(response)
        self.assertEqual((head.code, head.length), (200, 3))
        self.assertEqual(head.headers.getRawHeaders("X-More"), ["1", "2"])
        self.assertEqual(self.successResultOf(read_body(head, 10)), b"abc")
        self.assertTrue(self.connection.is_usable)

    def test_the_response_begins_before_the_request_ends(self) -> None:
        stream = self.begin()
        stream.write(b"one")
        body = self.answered(stream)
        stream.write(b"two")
        self.server.send_data(1, b"answer")
        events = self.exchange()
        self.assertEqual(data_in(events), b"two")
        self.assertEqual((body.data, body.end), (b"answer", None))
        stream.end()
        stream.write(b"late")
        self.assertIsInstance(self.exchange()[-1], h2.events.StreamEnded)
        self.server.end_stream(1)
        self.exchange()
        self.assertIsInstance(body.end, ResponseDone)
        self.clock.advance(STREAM_PARTING)
        self.assertTrue(self.connection.is_usable)

    def test_a_server_that_does_not_end_its_side_is_left(self) -> None:
        stream = self.begin()
        self.answered(stream)
        stream.end()
        self.exchange()
        self.clock.advance(STREAM_PARTING)
        self.assertTrue(self.wire.disconnecting)

    def test_a_response_that_is_complete_ends_the_request(self) -> None:
        stream = self.begin()
        self.exchange()
        self.server.send_headers(1, [(":status", "503")])
        self.server.send_data(1, b"no", end_stream=True)
        [reset] = self.exchange()
        self.assertIsInstance(reset, h2.events.StreamReset)
        self.assertEqual(self.successResultOf(read_body(self.successResultOf(stream.response), 10)), b"no")
        stream.write(b"more")
        self.assertEqual(self.exchange(), [])
        self.assertTrue(self.connection.is_usable)

    def test_whoever_gives_up_leaves_the_connection_to_the_others(self) -> None:
        first, second = self.get(), self.get()
        self.exchange()
        first.cancel()
        [reset] = self.exchange()
        self.assertEqual((reset.stream_id, reset.error_code), (1, ErrorCodes.CANCEL))
        self.failureResultOf(first, CancelledError)
        self.assertFalse(self.connection.is_usable)
        self.assertRaises(NotProcessed, self.begin)
        self.server.send_headers(3, OK, end_stream=True)
        self.exchange()
        self.assertEqual(self.successResultOf(second).code, 200)
        self.assertTrue(self.wire.disconnecting)
        self.clock.advance(PARTING)
        self.assertTrue(self.wire.aborted)

    def test_an_aborted_stream_tells_whoever_waits_for_its_response(self) -> None:
        stream = self.begin()
        stream.abort()
        stream.abort()
        self.clock.advance(0)
        self.failureResultOf(stream.response, CancelledError)

    def test_a_connection_that_is_lost(self) -> None:
        stream, waiting = self.begin(), self.get()
        self.exchange()
        body = self.answered(stream)
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.assertIsInstance(body.end, ConnectionLost)
        self.failureResultOf(waiting, ConnectionLost)
        self.successResultOf(self.connection.lost)
        self.assertEqual(self.pending_calls(), [])

    def test_a_server_that_chose_http1_hears_nothing(self) -> None:
        wire = Wire()
        wire.negotiatedProtocol = None
        connection = H2Connection(self.clock)
        connection.makeConnection(wire)
        self.assertEqual((wire.value(), wire.aborted, connection.is_http2), (b"", True, False))
        connection.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertFalse(connection.is_usable)


class FlowTests(H2Case):
    def test_what_the_server_has_no_room_for_waits(self) -> None:
        stream = self.begin()
        stream.write(b"x" * 100_000)
        sent = len(data_in(self.exchange()))
        self.assertEqual((sent, stream.full, self.drained), (65535, True, 0))
        stream.end()
        self.server.acknowledge_received_data(sent, 1)
        events = self.exchange()
        self.assertEqual(len(data_in(events)), 34465)
        self.assertIsInstance(events[-1], h2.events.StreamEnded)
        self.assertEqual((stream.full, self.drained), (False, 1))

    def test_a_transport_that_is_full_is_not_written_to(self) -> None:
        stream = self.begin()
        self.exchange()
        self.connection.pauseProducing()
        stream.write(b"hello")
        self.assertEqual((self.wire.value(), stream.full), (b"", True))
        self.connection.resumeProducing()
        self.assertEqual((stream.full, self.drained), (False, 1))
        self.assertIn(b"hello", self.wire.value())

    def test_windows_open_again_only_as_data_is_consumed(self) -> None:
        slow, other = self.begin(), self.begin()
        self.exchange()
        reader, free = self.answered(slow, slow=True), self.answered(other)
        for _ in range(STREAM_WINDOW // 16384):
            self.server.send_data(1, b"x" * 16384)
        self.exchange()
        self.assertLessEqual(self.server.local_flow_control_window(1), 16384)
        self.assertEqual(len(reader.data), 16384)  # the first piece, then it paused
        self.server.send_data(3, b"y" * 16384)
        self.exchange()
        self.assertEqual(len(free.data), 16384)
        while len(reader.data) < STREAM_WINDOW:
            slow.resumeProducing()
        self.exchange()
        self.assertGreater(self.server.local_flow_control_window(1), STREAM_WINDOW // 2)

    def test_small_and_padded_pieces_cost_no_more_than_large_ones(self) -> None:
        stream = self.begin()
        self.exchange()
        self.server.send_headers(1, OK)
        for _ in range(3000):
            self.server.send_data(1, b"x", pad_length=100)
        self.exchange()
        body = Body()
        self.successResultOf(stream.response).deliverBody(body)
        self.assertEqual(body.data, b"x" * 3000)
        for _ in range(9000):  # far more than a window, padding included
            self.server.send_data(1, b"x", pad_length=100)
            self.exchange()
        self.assertEqual(len(body.data), 12000)

    def test_a_response_that_nobody_takes_holds_up_no_other(self) -> None:
        for number in (1, 3, 5):
            response = self.get()
            self.exchange()
            self.server.send_headers(number, OK)
            for _ in range(STREAM_WINDOW // 16384):
                self.server.send_data(number, b"x" * 16384)
            self.exchange()
            self.successResultOf(response)
        self.assertGreaterEqual(self.server.outbound_flow_control_window, CONNECTION_WINDOW - 3 * STREAM_WINDOW - 65535)
        self.get()
        self.exchange()
        self.assertGreater(self.server.local_flow_control_window(7), STREAM_WINDOW // 2)

    def test_what_was_not_taken_frees_the_connection_when_it_is_given_up(self) -> None:
        stream, other = self.begin(), self.get()
        self.exchange()
        self.server.send_headers(1, OK)
        for _ in range(STREAM_WINDOW // 16384):
            self.server.send_data(1, b"x" * 16384)
        self.exchange()
        stream.abort()
        self.exchange()
        self.assertGreater(self.server.outbound_flow_control_window, CONNECTION_WINDOW // 2)
        self.assertNoResult(other)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.binary(min_size=1, max_size=70_000), max_size=6), st.lists(st.integers(1, 90_000), max_size=12))
    def test_every_byte_arrives_once_in_order_whatever_the_windows(
        self, writes: list[bytes], openings: list[int]
    ) -> None:
        self.begin_anew()
        stream, received, owed = self.begin(), b"", 0

        def take(events: list[Any]) -> None:
            nonlocal received, owed
            for event in events:
                if isinstance(event, h2.events.DataReceived):
                    received += event.data
                    owed += event.flow_controlled_length

        for position, data in enumerate(writes):
            stream.write(data)
            take(self.exchange())
            if position < len(openings):
                opened = min(owed, openings[position])
                owed -= opened
                self.server.acknowledge_received_data(opened, 1)
        while stream.outgoing:
            opened, owed = owed, 0
            self.server.acknowledge_received_data(opened, 1)
            take(self.exchange())
        self.assertEqual(received, b"".join(writes))


class TimeTests(H2Case):
    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)

    def test_a_connection_that_nobody_uses_is_closed(self) -> None:
        self.get()
        self.exchange()
        self.server.send_headers(1, OK, end_stream=True)
        self.exchange()
        self.advance(IDLE_TIMEOUT - 1)
        self.assertTrue(self.connection.is_usable)
        self.advance(1)
        [event] = self.exchange()
        self.assertIsInstance(event, h2.events.ConnectionTerminated)
        self.assertTrue(self.wire.disconnecting)

    def test_a_server_that_is_silent_is_asked_whether_it_is_there(self) -> None:
        stream = self.begin()
        body = self.answered(stream)
        for _ in range(5):
            self.advance(PING_AFTER)
            self.assertTrue([event for event in self.exchange() if isinstance(event, h2.events.PingReceived)])
            self.advance(PING_LIMIT)
        self.assertIsNone(body.end)

    def test_one_that_is_not_there_is_given_up(self) -> None:
        stream, waiting = self.begin(), self.get()
        body = self.answered(stream)
        self.advance(PING_AFTER)
        self.advance(PING_LIMIT)
        self.assertIn("has not been heard of for 75 s", str(body.end))
        self.failureResultOf(waiting, ProtocolError)
        self.advance(PARTING)
        self.assertTrue(self.wire.aborted)

    def test_one_that_talks_is_not_asked(self) -> None:
        stream = self.begin()
        self.answered(stream)
        for _ in range(10):
            self.advance(PING_AFTER / 2)
            self.server.send_data(1, b"x")
            events = self.exchange()
            self.assertEqual([event for event in events if isinstance(event, h2.events.PingReceived)], [])


class LeaveTests(H2Case):
    """GOAWAY, and streams that the server ends."""

    def test_what_runs_goes_on_and_nothing_new_begins(self) -> None:
        first, second = self.get(), self.get()
        self.exchange()
        self.connection.dataReceived(goaway(1, 0))
        self.failureResultOf(second, NotProcessed)
        self.assertFalse(self.connection.is_usable)
        self.assertRaises(NotProcessed, self.begin)
        self.server.send_headers(1, OK)
        self.server.send_data(1, b"abc", end_stream=True)
        self.exchange()
        self.assertEqual(self.successResultOf(read_body(self.successResultOf(first), 10)), b"abc")
        self.assertTrue(self.wire.disconnecting)

    def test_a_graceful_one_in_two_steps_as_go_does_it(self) -> None:
        stream = self.begin()
        body = self.answered(stream)
        self.connection.dataReceived(goaway(2**31 - 1, 0))
        self.connection.dataReceived(goaway(1, 0, b"graceful"))
        self.server.send_data(1, b"still", end_stream=True)
        self.exchange()
        self.assertEqual(body.data, b"still")
        self.assertIsInstance(body.end, ResponseDone)

    def test_nothing_runs(self) -> None:
        self.connection.dataReceived(goaway(0, 0))
        self.assertTrue(self.wire.disconnecting)

    def test_because_of_an_error(self) -> None:
        waiting = self.get()
        self.exchange()
        self.connection.dataReceived(goaway(1, ErrorCodes.ENHANCE_YOUR_CALM))
        self.assertIn("ENHANCE_YOUR_CALM", str(self.failureResultOf(waiting, ProtocolError).value))
        self.assertTrue(self.wire.disconnecting)

    def test_a_refused_stream_may_be_tried_again(self) -> None:
        waiting = self.get()
        self.exchange()
        self.server.reset_stream(1, ErrorCodes.REFUSED_STREAM)
        self.exchange()
        self.failureResultOf(waiting, NotProcessed)
        self.assertFalse(self.connection.is_usable)

    def test_a_stream_that_is_broken_off(self) -> None:
        stream, other = self.begin(), self.get()
        body = self.answered(stream)
        self.server.send_data(1, b"abc")
        self.server.reset_stream(1, 12345)
        self.exchange()
        self.assertEqual((body.data, str(body.end)), (b"abc", "the server ended the request: error 12345"))
        self.assertNoResult(other)
        self.assertTrue(self.connection.is_usable)

    def test_a_server_that_takes_no_requests(self) -> None:
        self.server.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        self.exchange()
        self.begin()
        self.assertRaises(ProtocolError, self.begin)


class HostileTests(H2Case):
    """Whatever the server sends: one clear error, and only this connection is lost."""

    def assert_lost(self, hostile: bytes) -> None:
        stream, waiting = self.begin(), self.get()
        body = self.answered(stream)
        self.connection.dataReceived(hostile)
        self.assertIsInstance(body.end, ProtocolError, hostile[:50])
        self.failureResultOf(waiting, ProtocolError)
        self.assertTrue(self.wire.disconnecting)
        self.connection.dataReceived(hostile)
        self.clock.advance(PARTING)
        self.assertTrue(self.wire.aborted)

    def headers(self, *pairs: tuple[str, str], stream: int = 3, flags: int = 4) -> bytes:
        block = Encoder().encode(pairs)
        return len(block).to_bytes(3, "big") + bytes([1, flags]) + stream.to_bytes(4, "big") + block

    def test_http1(self) -> None:
        self.assert_lost(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def test_a_frame_larger_than_allowed(self) -> None:
        self.assert_lost(frame(0, b"x" * 16385, 1))

    def test_headers_without_end(self) -> None:
        first = self.headers((":status", "200"), flags=0)
        self.assert_lost(first + frame(9, b"\x00\x01a\x01b" * 10, 3) * 100)

    def test_more_headers_than_memory_is_for(self) -> None:
        encoder = Encoder()
        bomb = encoder.encode([(":status", "200"), ("x-big", "y" * 4000)]) + b"\xbe" * 50  # 4000 more bytes each
        self.assertLess(len(bomb), 16384)
        self.assertGreater(50 * 4000, MAX_HEADERS)
        self.assert_lost(frame(1, bomb, 3)[:4] + b"\x04" + frame(1, bomb, 3)[5:])

    def test_headers_that_are_none(self) -> None:
        self.assert_lost(frame(1, b"\xff" * 20, 3)[:4] + b"\x04" + frame(1, b"\xff" * 20, 3)[5:])

    def test_a_status_that_is_none(self) -> None:
        self.assert_lost(self.headers((":status", "2xx")))

    def test_data_for_a_stream_that_is_not_there(self) -> None:
        self.assert_lost(frame(0, b"x", 99))

    def test_a_push_that_was_forbidden(self) -> None:
        block = Encoder().encode([(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "x")])
        self.assert_lost(frame(5, (2).to_bytes(4, "big") + block, 1)[:4] + b"\x04" + frame(5, bytes(4) + block, 1)[5:])

    def test_more_than_the_window(self) -> None:
        self.assert_lost(frame(0, b"x" * 16384, 3) * 70)

    def test_a_window_that_overflows(self) -> None:
        self.assert_lost(frame(8, (2**31 - 1).to_bytes(4, "big"), 0))

    def test_a_body_that_is_not_as_long_as_announced(self) -> None:
        self.assert_lost(self.headers((":status", "200"), ("content-length", "9")) + frame(0, b"x" * 10, 3))

    def test_questions_without_end_while_no_answer_is_taken(self) -> None:
        self.connection.pauseProducing()
        waiting = self.get()
        self.connection.dataReceived(frame(6, b"8 bytes.") * MAX_CONTROL)
        self.assertNoResult(waiting)
        self.connection.dataReceived(frame(6, b"8 bytes."))
        self.assertIn("asks and asks", str(self.failureResultOf(waiting, ProtocolError).value))

    def test_questions_that_are_answered_are_no_offence(self) -> None:
        self.connection.dataReceived(frame(6, b"8 bytes.") * (MAX_CONTROL + 1))
        self.assertTrue(self.connection.is_usable)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.binary(max_size=60)
            | st.builds(frame, st.integers(0, 12), st.binary(max_size=40), st.sampled_from([0, 1, 2, 3, 5])),
            max_size=6,
        ),
        CUTS,
    )
    def test_any_bytes_leave_the_streams_open_or_end_each_of_them_once(
        self, pieces: list[bytes], cuts: list[int]
    ) -> None:
        self.begin_anew()
        stream, waiting = self.begin(), self.get()
        body = self.answered(stream)
        for piece in cut(b"".join(pieces), cuts):
            self.connection.dataReceived(piece)
        self.clock.advance(0)
        if not self.connection.is_usable and self.wire.disconnecting:
            self.assertIsNotNone(body.end)
            self.assertTrue(waiting.called)
        waiting.addErrback(lambda failure: None)
        self.connection.connectionLost(Failure(ConnectionLost()))
        self.assertIsNotNone(body.end)
        self.assertEqual(self.pending_calls(), [])
