"""What goes over the connection: one full-duplex request, whole bodies, headers."""

from __future__ import annotations

from typing import Any

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

from fleetspeak.client.comms.bodies import read_body
from fleetspeak.client.comms.http import Transport, reason_of
from fleetspeak.client.comms.httpstream import PARTING, HttpStream
from fleetspeak.errors import ConfigError, TooLarge
from fleetspeak.testing.clientside import FakeLink, client_settings
from tests.wire.pieces import CUTS, cut

ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n"


class Body(Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data = b""
        self.end: BaseException | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end = reason.value


class Wire(StringTransport):
    """A connection that notes how it is closed."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


class HttpStreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.wire, self.drained = Clock(), Wire(), 0
        self.stream = self.make()
        self.stream.makeConnection(self.wire)

    def make(self) -> HttpStream:
        def on_drained() -> None:
            self.drained += 1

        return HttpStream("server:443", "/streaming-message", [(b"X-Cert", [b"pem"])], on_drained, self.clock)

    def take_body(self) -> Body:
        body = Body()
        self.successResultOf(self.stream.response).deliverBody(body)
        return body

    def test_the_request_as_it_goes_out(self) -> None:
        self.stream.write(b"hello")
        self.stream.write(b"x" * 20)
        self.assertEqual(
            self.wire.value(),
            b"POST /streaming-message HTTP/1.1\r\nHost: server:443\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\nX-Cert: pem\r\n\r\n5\r\nhello\r\n14\r\n" + b"x" * 20 + b"\r\n",
        )

    def test_the_answer_begins_before_the_request_ends(self) -> None:
        self.stream.dataReceived(ANSWER)
        body = self.take_body()
        self.assertEqual((body.data, body.end), (b"abcde", None))
        self.stream.write(b"more")
        self.stream.dataReceived(b"0\r\n\r\n")
        self.assertIsInstance(body.end, ResponseDone)

    @settings(max_examples=60)
    @given(CUTS)
    def test_the_answer_survives_any_split(self, cuts: list[int]) -> None:
        stream = self.make()
        stream.makeConnection(Wire())
        body = Body()
        stream.response.addCallback(lambda response: response.deliverBody(body))
        for piece in cut(ANSWER + b"0\r\n\r\n", cuts):
            stream.dataReceived(piece)
        self.assertEqual(body.data, b"abcde")

    @settings(max_examples=100)
    @given(st.binary(max_size=60), CUTS)
    def test_whatever_the_server_sends_only_this_connection_is_lost(self, garbage: bytes, cuts: list[int]) -> None:
        for start in (b"", b"HTTP/1.1 200 OK\r\n", ANSWER):
            stream = self.make()
            stream.makeConnection(Wire())
            body = Body()
            stream.response.addCallbacks(lambda response, body=body: response.deliverBody(body), lambda failure: None)
            for piece in cut(start + garbage, cuts):
                stream.dataReceived(piece)
            stream.connectionLost(Failure(ConnectionLost()))
            self.assertTrue(stream.response.called)
            self.assertTrue(start != ANSWER or body.end)

    def test_a_connection_that_is_lost_before_the_answer(self) -> None:
        self.stream.connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(self.stream.response)

    def test_nothing_is_written_behind_the_end(self) -> None:
        self.stream.end()
        self.stream.write(b"late")
        self.stream.end()
        self.assertTrue(self.wire.value().endswith(b"\r\n\r\n0\r\n\r\n"))
        self.assertTrue(self.wire.disconnecting)

    def test_a_server_that_does_not_close_its_side_is_left(self) -> None:
        self.stream.end()
        self.clock.advance(PARTING)
        self.assertTrue(self.wire.aborted)

    def test_one_that_does_leaves_nothing_behind(self) -> None:
        self.stream.response.addErrback(lambda failure: None)
        self.stream.end()
        self.stream.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_knows_whether_the_transport_is_full(self) -> None:
        self.assertIs(self.wire.producer, self.stream)
        self.stream.pauseProducing()
        self.assertEqual((self.stream.full, self.drained), (True, 0))
        self.stream.resumeProducing()
        self.assertEqual((self.stream.full, self.drained), (False, 1))


class _Response:
    """A head; the test has its body."""

    def __init__(self) -> None:
        self.transport = StringTransport()
        self.body: Any = None

    def deliverBody(self, protocol: Any) -> None:
        self.body = protocol
        protocol.makeConnection(self.transport)


class ReadBodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.response = _Response()
        self.read: Deferred[bytes] = read_body(self.response, 10)  # type: ignore[arg-type]

    def test_a_whole_body(self) -> None:
        self.response.body.dataReceived(b"12345")
        self.response.body.dataReceived(b"67890")
        self.assertNoResult(self.read)
        self.response.body.connectionLost(Failure(ResponseDone()))
        self.assertEqual(self.successResultOf(self.read), b"1234567890")

    def test_one_byte_more_than_the_limit_is_refused_at_once(self) -> None:
        self.response.body.dataReceived(b"12345678901")
        self.failureResultOf(self.read, TooLarge)
        self.assertTrue(self.response.transport.disconnecting)
        self.response.body.dataReceived(b"more")
        self.response.body.connectionLost(Failure(ConnectionLost()))

    def test_a_body_that_is_cut_off(self) -> None:
        self.response.body.dataReceived(b"123")
        self.response.body.connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(self.read, ConnectionLost)

    def test_cancelling_drops_the_connection(self) -> None:
        self.read.cancel()
        self.failureResultOf(self.read, CancelledError)
        self.assertTrue(self.response.transport.disconnecting)


class TransportTests(SynchronousTestCase):
    def test_an_unknown_dialer_is_an_error_that_names_the_known_ones(self) -> None:
        error = self.assertRaises(ConfigError, Transport, FakeLink(), client_settings(dialer="pigeon"), Clock())
        self.assertIn('no dialer is called "pigeon"; there are: direct, proxy. ', str(error))

    def test_a_rekey_makes_it_stale(self) -> None:
        link = FakeLink()
        transport = Transport(link, client_settings(), Clock())
        self.assertFalse(transport.is_stale)
        link.rekey()
        self.assertTrue(transport.is_stale)


class ReasonTests(SynchronousTestCase):
    def test_each_gathered_error_has_its_say(self) -> None:
        gathered = Exception()
        gathered.reasons = [Failure(ValueError("one")), Failure(KeyError())]  # type: ignore[attr-defined]
        self.assertEqual(reason_of(gathered), "one; KeyError")
