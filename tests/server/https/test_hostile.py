"""Input that is meant to hurt: at most the connection that it comes by is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.pb import common
from fleetspeak.wire import streamframes
from tests.server.contact.world import for_client, from_client, id_of, identity, wrapped
from tests.server.https.wire import Connection, Server, acks, record, stream_start

ALICE = identity("alice")

PIECES = st.sampled_from(
    [
        b"POST /message HTTP/1.1\r\n",
        b"POST /streaming-message HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 7\r\n",
        b"Content-Encoding: deflate\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"\r\n",
        b"4\r\n" + streamframes.MAGIC + b"\r\n",
        b"1\r\n\x00\r\n",
        b"0\r\n\r\n",
        streamframes.MAGIC,
        b"\x00",
        b"\xff" * 11,
    ]
)


class SixInputsTests(SynchronousTestCase):
    """server-https.md 8: inputs that end the whole upstream process; those that the frontend sees, over the wire."""

    def setUp(self) -> None:
        self.server = Server()
        self.world = self.server.world

    def start(self, first: common.WrappedContactData | None = None) -> Connection:
        connection = self.server.connect()
        connection.begin_stream()
        connection.chunk(stream_start(first or wrapped()))
        return connection

    def test_signature_without_certificate_on_a_stream(self) -> None:
        connection = self.start()
        hostile = wrapped(from_client(), signatures=[common.Signature(algorithm=10, signature=b"x")])
        connection.chunk(record(hostile))
        self.assertEqual(acks(connection.records()), [1])

    def test_message_with_an_empty_result_that_fails_temporarily_on_a_stream(self) -> None:
        self.world.ingestor.verdict = lambda message: None
        connection = self.start()
        connection.chunk(record(wrapped(from_client(result=common.MessageResult()))))
        self.assertEqual(acks(connection.records()), [1])
        (stored,) = self.world.stored(id_of(from_client(), ALICE.client_id))
        self.assertFalse(stored.HasField("result"))

    def test_wrapping_token_counters(self) -> None:
        connection = self.start(wrapped(tokens={"greeter": 2**64 - 1}))
        connection.chunk(record(wrapped(tokens={"greeter": 2**64 - 1})))
        self.world.insert(*(for_client(ALICE.client_id, number) for number in range(3)))
        self.assertEqual(acks(connection.records()), [1])
        self.assertEqual(sum(len(one.messages) for one in connection.records()), 3)
        self.assertFalse(connection.is_closed)


class AfterARefusalTests(SynchronousTestCase):
    def test_there_is_one_answer(self) -> None:
        """Not even when the peer reads slowly, and what it sends next is not HTTP either."""
        connection = Server().connect()
        connection.channel.pauseProducing()
        connection.begin_stream("/nothing")
        with capturedLogs():
            connection.send(b"zzz\r\nzzz\r\n\r\n")
        self.assertEqual(connection.response().status, 404)


class FuzzTests(SynchronousTestCase):
    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.one_of(PIECES, st.binary(max_size=30)), max_size=14))
    def test_any_bytes_are_answered_or_waited_for(self, pieces: list[bytes]) -> None:
        server = Server()
        connection = server.connect()
        with capturedLogs():
            for piece in pieces:
                connection.send(piece)
            server.clock.advance(3600)
        self.assertTrue(connection.is_closed)
        connection.lose()
        self.assertEqual(len(server.context.running), 0)
        self.assertEqual(len(server.world.dispatcher), 0)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.one_of(PIECES, st.binary(max_size=30)), max_size=8))
    def test_a_stream_survives_or_ends(self, pieces: list[bytes]) -> None:
        server = Server()
        connection = server.connect()
        connection.begin_stream()
        connection.chunk(stream_start(wrapped()))
        with capturedLogs():
            for piece in pieces:
                connection.send(piece)
            server.clock.advance(60)
        numbers = acks(connection.records())
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        connection.lose()
        self.assertEqual(len(server.world.dispatcher), 0)
