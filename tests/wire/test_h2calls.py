"""Small calls over HTTP/2: against the server's side of the library `h2`, and against whatever may come."""

from __future__ import annotations

import struct
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.wire import h2calls
from fleetspeak.wire.grpccalls import request_head, time_limit
from fleetspeak.wire.h2calls import H2Calls, Response

HEAD = request_head("/a.b/C", "localhost:1", tls=False) + time_limit(1.5)

OK = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0"), ("grpc-message", "")]


class Peer:
    """A server, by the library; answers each call when its request is whole."""

    def __init__(self, **initial: int) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        values = {getattr(h2.settings.SettingCodes, name): value for name, value in initial.items()}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self.h2.initiate_connection()
        self.heads: dict[int, list[Any]] = {}
        self.bodies: dict[int, bytes] = {}
        self.order: list[int] = []
        self.answer_at_once = True

    def exchange(self, calls: H2Calls, split: int = 10**9) -> list[Response]:
        """Let bytes go both ways, in pieces of so many, until there are none; the responses that came."""
        came: list[Response] = []
        while True:
            out, back = calls.take(), self.h2.data_to_send()
            if not out and not back:
                return came
            for position in range(0, len(out), split):
                for event in self.h2.receive_data(out[position : position + split]):
                    self.handle(event)
            for position in range(0, len(back), split):
                came += calls.receive(back[position : position + split])

    def handle(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.heads[event.stream_id] = event.headers
            self.bodies[event.stream_id] = b""
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.order.append(event.stream_id)
            if self.answer_at_once:
                self.answer(event.stream_id)

    def answer(self, number: int, body: bytes = b"\0\0\0\0\0") -> None:
        self.h2.send_headers(number, OK)
        self.h2.send_data(number, body)
        self.h2.send_headers(number, TRAILERS, end_stream=True)


class WithLibraryTests(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.integers(0, 150_000), min_size=1, max_size=6),
        st.sampled_from((1, 7, 100, 5000, 10**9)),
        st.sampled_from((1, 1000, 65535, 200_000)),
        st.integers(1, 3),
    )
    def test_all_calls_are_answered(self, sizes: list[int], split: int, window: int, at_a_time: int) -> None:
        """However the bytes are cut, whatever the windows, and however many calls the server takes at a time."""
        peer = Peer(INITIAL_WINDOW_SIZE=window, MAX_CONCURRENT_STREAMS=at_a_time)
        calls = H2Calls()
        came = peer.exchange(calls)
        bodies = [bytes([n]) * (size % (100 * min(window, split))) for n, size in enumerate(sizes)]
        sent: dict[int, bytes] = {}
        waiting = list(bodies)
        while waiting or len(calls):
            while waiting and calls.has_room:
                body = waiting.pop(0)
                sent[calls.begin(HEAD, body)] = body
                self.assertLessEqual(len(calls), at_a_time)
            came += peer.exchange(calls, split)
        self.assertEqual(peer.bodies, sent)
        self.assertEqual([sent[response.number] for response in came], bodies)
        for response in came:
            self.assertEqual(response.error, "")
            self.assertEqual(dict(response.headers)[b"grpc-status"], b"0")
            self.assertEqual(response.body, b"\0\0\0\0\0")

    def test_the_head_is_what_it_should_be(self) -> None:
        peer, calls = Peer(), H2Calls()
        number = calls.begin(HEAD, b"x")
        peer.exchange(calls)
        self.assertEqual(
            [tuple(header) for header in peer.heads[number]],
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/a.b/C"),
                (":authority", "localhost:1"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("grpc-timeout", "1500m"),
            ],
        )

    def test_heads_that_were_seen_are_not_decoded_again(self) -> None:
        peer, calls = Peer(), H2Calls()
        decoded: list[bytes] = []
        decode = calls._decoder.decode
        calls._decoder.decode = lambda block, raw: decoded.append(block) or decode(block, raw)  # type: ignore[assignment]
        for _ in range(5):
            calls.begin(HEAD, b"x")
            [response] = peer.exchange(calls)
            self.assertEqual(response.headers, [(name.encode(), value.encode()) for name, value in OK + TRAILERS])
        self.assertEqual(len(decoded), 4, "both twice: as text, and as references to the table")

    def test_a_table_that_changes_is_not_mistaken(self) -> None:
        """The same bytes mean something else after a new entry has moved the others."""
        peer, calls = Peer(), H2Calls()
        for reason in ("one", "one", "two", "two", "one", "three", "two", "two"):
            number = calls.begin(HEAD, b"x")
            peer.answer_at_once = False
            peer.exchange(calls)
            peer.h2.send_headers(number, [*OK, ("grpc-status", "5"), ("grpc-message", reason)], end_stream=True)
            [response] = peer.exchange(calls)
            self.assertEqual(dict(response.headers)[b"grpc-message"], reason.encode())

    def test_a_server_that_keeps_no_table(self) -> None:
        """It must be told that ours, which is never used, has no room either; the library insists."""
        peer, calls = Peer(HEADER_TABLE_SIZE=0), H2Calls()
        peer.exchange(calls)
        for _ in range(2):
            calls.begin(HEAD, b"x")
            self.assertEqual(len(peer.exchange(calls)), 1)

    def test_a_call_that_nobody_wants_any_more(self) -> None:
        peer, calls = Peer(), H2Calls()
        peer.answer_at_once = False
        number = calls.begin(HEAD, b"x")
        peer.exchange(calls)
        peer.h2.send_headers(number, OK)
        late = peer.h2.data_to_send()
        calls.cancel(number)
        self.assertEqual(calls.receive(late), [], "what crossed the cancelling is passed over")
        self.assertEqual(len(calls), 0)
        calls.begin(HEAD, b"y")
        peer.answer_at_once = True
        self.assertEqual(len(peer.exchange(calls)), 1)

    def test_an_answer_before_the_request_is_whole(self) -> None:
        peer, calls = Peer(INITIAL_WINDOW_SIZE=10), H2Calls()
        peer.exchange(calls)
        number = calls.begin(HEAD, b"x" * 100)
        self.assertFalse(calls.has_room, "a window that is closed holds up the next call")
        peer.h2.receive_data(calls.take())
        peer.h2.send_headers(number, [*OK, ("grpc-status", "8")], end_stream=True)
        peer.h2.reset_stream(number, 0)
        [response] = calls.receive(peer.h2.data_to_send())
        self.assertEqual(dict(response.headers)[b"grpc-status"], b"8")
        peer.h2.receive_data(calls.take())

    def test_a_reset(self) -> None:
        for code, is_begun in ((7, False), (11, True), (0, True)):
            peer, calls = Peer(), H2Calls()
            number = calls.begin(HEAD, b"x")
            peer.h2.receive_data(calls.take())
            peer.h2.reset_stream(number, code)
            [response] = calls.receive(peer.h2.data_to_send())
            self.assertIn(f"error {code}", response.error)
            self.assertEqual(response.is_begun, is_begun)

    def test_an_interim_response(self) -> None:
        peer, calls = Peer(), H2Calls()
        peer.answer_at_once = False
        number = calls.begin(HEAD, b"x")
        peer.exchange(calls)
        peer.h2.send_headers(number, [(":status", "103")])
        peer.answer(number)
        [response] = peer.exchange(calls)
        self.assertEqual(dict(response.headers)[b":status"], b"200")

    def test_a_response_that_is_too_large(self) -> None:
        peer, calls = Peer(), H2Calls()
        peer.answer_at_once = False
        number = calls.begin(HEAD, b"x")
        peer.exchange(calls)
        peer.h2.send_headers(number, OK)
        for _ in range(4):
            peer.h2.send_data(number, b"x" * h2calls.MAX_FRAME)
        [response] = calls.receive(peer.h2.data_to_send())
        self.assertIn("65536 bytes or more", response.error)
        self.assertTrue(response.is_too_large)

    def test_a_long_life(self) -> None:
        """The window of the connection is opened again and again."""
        peer, calls = Peer(), H2Calls()
        peer.answer_at_once = False
        for _ in range(1200):
            number = calls.begin(HEAD, b"x")
            peer.exchange(calls)
            peer.answer(number, b"x" * 16_000)
            self.assertEqual(len(peer.exchange(calls)), 1)


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, number) + payload


SETTINGS = frame(4, 0, 0)


class HostileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls = H2Calls()
        self.number = self.calls.begin(HEAD, b"x")
        self.calls.take()

    def refuse(self, data: bytes, words: str) -> None:
        error = self.assertRaises(ProtocolError, self.calls.receive, data)
        self.assertIn(words, str(error))

    def test_what_is_no_http_2(self) -> None:
        self.refuse(b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2")

    def test_a_large_frame_is_refused_by_its_head(self) -> None:
        self.calls.receive(SETTINGS)
        error = self.assertRaises(TooLarge, self.calls.receive, b"\x00\x40\x01" + frame(0, 0, 1)[3:])
        self.assertIn("16385", str(error))

    def test_frames_that_break_a_rule(self) -> None:
        head = frame(1, 4, 1, b"\x88")
        for data, words in (
            (frame(4, 0, 0, b"12345"), "SETTINGS"),
            (frame(4, 0, 1), "SETTINGS"),
            (SETTINGS + frame(5, 4, 1, b"\0\0\0\2"), "nobody asked"),
            (SETTINGS + frame(0, 0, 1, b"x"), "before its head"),
            (SETTINGS + frame(0, 0, 3, b"x"), "nobody opened"),
            (SETTINGS + frame(1, 4, 2, b"\x88"), "none of ours"),
            (SETTINGS + frame(1, 4, 3, b"\x88"), "nobody opened"),
            (SETTINGS + head + frame(0, 8, 1, b"\x05xxxx"), "padding"),
            (SETTINGS + head + frame(0, 8, 1, b""), "padding"),
            (SETTINGS + frame(1, 4, 1, b"\xff\xff\xff\xff\x7f"), "cannot be decoded"),
            (SETTINGS + frame(9, 4, 1, b"\x88"), "continuation of nothing"),
            (SETTINGS + frame(1, 0, 1, b"\x88") + frame(6, 0, 0, b"12345678"), "amid"),
            (SETTINGS + frame(1, 0, 1, b"\x88") + frame(9, 4, 3, b""), "continuation of nothing"),
            (SETTINGS + frame(8, 0, 0, bytes(4)), "by nothing"),
            (SETTINGS + frame(8, 0, 0, b"\x7f\xff\xff\xff"), "too large"),
            (SETTINGS + frame(8, 0, 1, b"\x7f\xff\xff\xff"), "too large"),
            (frame(4, 0, 0, b"\0\4\xff\xff\xff\xff"), "too large"),
            (SETTINGS + frame(8, 0, 0, b"123"), "wrong size"),
            (SETTINGS + frame(6, 0, 0, b"123"), "PING"),
            (SETTINGS + frame(7, 0, 0, b"123"), "GOAWAY"),
            (SETTINGS + frame(3, 0, 1, b"123"), "wrong size"),
        ):
            self.setUp()
            self.refuse(data, words)

    def test_questions_without_end(self) -> None:
        self.calls.receive(SETTINGS + frame(6, 0, 0, b"12345678") * 900)
        self.calls.take()
        self.calls.receive(frame(6, 0, 0, b"12345678") * 900)
        self.refuse(frame(6, 0, 0, b"12345678") * 200, "asks and asks")

    def test_header_blocks_without_end(self) -> None:
        self.calls.receive(SETTINGS + frame(1, 0, 1, b"\x88" * 16000))
        self.refuse(frame(9, 0, 1, b"\x88" * 16000) * 4, "without end")
        self.setUp()
        self.calls.receive(SETTINGS + frame(1, 0, 1))
        self.refuse(frame(9, 0, 1) * 2000, "asks and asks")

    def test_headers_that_decompress_to_very_many(self) -> None:
        name = b"\x40\x7f\x81\x1e" + b"n" * 4000 + b"\x01v"
        self.calls.receive(SETTINGS)
        self.refuse(frame(1, 4, 1, name + b"\xbe" * 100), "cannot be decoded")

    def test_a_server_that_is_about_to_close(self) -> None:
        second = self.calls.begin(HEAD, b"y")
        [response] = self.calls.receive(SETTINGS + frame(7, 0, 0, struct.pack(">II", self.number, 0)))
        self.assertEqual((response.number, response.is_begun), (second, False))
        self.assertFalse(self.calls.is_usable or self.calls.has_room)
        [response] = self.calls.receive(frame(1, 5, self.number, b"\x88"))
        self.assertEqual(response.number, self.number, "calls that the server has begun with go on")

    def test_a_connection_that_is_lost(self) -> None:
        [response] = self.calls.lose("gone")
        self.assertEqual((response.number, response.error, response.is_begun), (self.number, "gone", True))
        self.assertFalse(self.calls.is_usable)

    def test_the_numbers_end(self) -> None:
        self.calls._next = h2calls.LAST_NUMBER
        self.assertTrue(self.calls.has_room)
        self.calls.begin(HEAD, b"x")
        self.assertFalse(self.calls.is_usable)

    def test_before_the_server_has_said_anything(self) -> None:
        for _ in range(h2calls.FIRST_CALLS - 1):
            self.assertTrue(self.calls.has_room)
            self.calls.begin(HEAD, b"x")
        self.assertFalse(self.calls.has_room)
        self.calls.receive(SETTINGS)
        self.assertTrue(self.calls.has_room)

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 10), st.integers(0, 255), st.sampled_from((0, 1, 2, 3)), st.binary(max_size=40)),
            max_size=12,
        ),
        st.binary(max_size=30),
    )
    def test_any_frames(self, frames: list[tuple[int, int, int, bytes]], rest: bytes) -> None:
        """End in responses, or in one clear error."""
        calls = H2Calls()
        calls.begin(HEAD, b"x" * 70_000)
        try:
            for response in calls.receive(SETTINGS + b"".join(frame(*one) for one in frames) + rest):
                self.assertEqual(response.number, 1)
        except ProtocolError:
            calls.lose("")
        calls.take()
