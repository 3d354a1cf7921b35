from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http
from zope.interface.verify import verifyObject

from fleetspeak.server.https.streamrequest import (
    HANDSHAKE_LIMIT,
    HEADER_LIMIT,
    KEEP_ALIVE_LIMIT,
    LINGER_LIMIT,
    MAX_HEADER_BYTES,
    REQUEST_LIMIT,
    show_address,
)
from tests.server.contact.world import from_client, wrapped
from tests.server.https.wire import Server


class PrivateNamesTests(SynchronousTestCase):
    """What `streamrequest` knows of twisted.web's inside: fails when an upgrade of Twisted renames any of it."""

    def test_names_of_the_channel(self) -> None:
        channel = http.HTTPChannel()
        for name in (
            "_receivedHeaderSize",
            "_handlingRequest",
            "_waitingForTransport",
            "_respondToBadRequestAndDisconnect",
            "_savedTimeOut",
            "_optimisticEagerReadSize",
            "checkPersistence",
            "allHeadersReceived",
            "allContentReceived",
            "requestDone",
            "totalHeadersSize",
            "maxHeaders",
            "persistent",
            "requests",
            "length",
        ):
            self.assertTrue(hasattr(channel, name), name)

    def test_names_that_exist_while_a_request_comes(self) -> None:
        connection = Server().connect()
        connection.send(b"POST /message HTTP/1.1\r\n")
        channel = connection.channel
        self.assertEqual((channel._command, channel._path, channel._version), (b"POST", b"/message", b"HTTP/1.1"))

    def test_names_of_the_request(self) -> None:
        for name in ("_disconnected", "finished", "startedWriting", "clientproto", "gotLength", "handleContentChunk"):
            self.assertTrue(hasattr(http.Request, name), name)

    def test_no_body_is_kept_by_twisted(self) -> None:
        connection = Server().connect()
        connection.begin_stream("/message")
        connection.chunk(bytes(200_000))
        self.assertIsNone(connection.channel.requests[0].content)

    def test_the_handshake_is_listened_to(self) -> None:
        verifyObject(IHandshakeListener, Server().connect().channel)


class TimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()
        self.connection = self.server.connect()

    def after(self, seconds: float) -> bool:
        """Whether the connection is closed that much later, and not a moment before."""
        self.server.clock.advance(seconds - 0.01)
        before = self.connection.is_closed
        self.server.clock.advance(0.02)
        return self.connection.is_closed and not before

    def test_handshake(self) -> None:
        self.assertTrue(self.after(HANDSHAKE_LIMIT))

    def test_headers_after_the_handshake(self) -> None:
        self.server.clock.advance(5)
        self.connection.channel.handshakeCompleted()
        self.assertTrue(self.after(HEADER_LIMIT))

    def test_headers_that_trickle_in(self) -> None:
        self.connection.channel.handshakeCompleted()
        self.connection.send(b"P")
        for byte in b"OST /":
            self.server.clock.advance(1)
            self.connection.send(bytes([byte]))
        self.assertTrue(self.after(HEADER_LIMIT - 5))

    def test_silence_between_requests(self) -> None:
        self.server.clock.advance(5)
        self.connection.post("/message")
        self.assertTrue(self.after(KEEP_ALIVE_LIMIT))

    def test_headers_of_a_later_request(self) -> None:
        self.connection.post("/message")
        self.server.clock.advance(20)
        self.connection.send(b"POST")
        self.assertTrue(self.after(HEADER_LIMIT))

    def test_a_busy_connection_stays(self) -> None:
        for _ in range(20):
            self.connection.post("/message")
            self.server.clock.advance(KEEP_ALIVE_LIMIT - 1)
        self.assertFalse(self.connection.is_closed)
        self.assertEqual(len(self.connection.responses()), 20)

    def test_one_timer_serves_many_polls(self) -> None:
        self.connection.post("/message")
        (timer,) = self.server.clock.getDelayedCalls()
        for _ in range(5):
            self.server.clock.advance(1)
            self.connection.post("/message")
        self.assertEqual(self.server.clock.getDelayedCalls(), [timer])

    def test_a_slow_reader_of_a_response(self) -> None:
        self.connection.post("/message")
        self.connection.channel.pauseProducing()
        self.connection.post("/message")
        self.server.clock.advance(KEEP_ALIVE_LIMIT * 2)
        self.assertFalse(self.connection.is_closed)
        self.connection.channel.resumeProducing()
        self.assertTrue(self.after(KEEP_ALIVE_LIMIT))

    def test_a_slow_reader_of_the_last_response(self) -> None:
        self.connection.channel.pauseProducing()
        self.connection.post("/message", headers={"Connection": "close"})
        self.assertFalse(self.connection.is_closed)
        self.connection.channel.resumeProducing()
        self.assertTrue(self.connection.is_closed)

    def test_but_not_for_ever(self) -> None:
        self.connection.channel.pauseProducing()
        self.connection.post("/message", headers={"Connection": "close"})
        self.assertTrue(self.after(REQUEST_LIMIT))
        self.assertTrue(self.connection.transport.disconnected)

    def test_a_peer_that_does_not_close(self) -> None:
        self.connection.post("/nothing", b"", headers={"Connection": "close"})
        self.assertTrue(self.connection.is_closed)
        self.server.clock.advance(LINGER_LIMIT)
        self.assertTrue(self.connection.transport.disconnected)

    def test_nothing_is_left_behind(self) -> None:
        self.connection.post("/message")
        self.connection.lose()
        self.assertEqual(self.server.clock.getDelayedCalls(), [])


class LimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = Server().connect()

    def test_one_long_header(self) -> None:
        self.connection.send(b"POST /message HTTP/1.1\r\nX: " + b"x" * MAX_HEADER_BYTES)
        self.connection.send(b"x" * 10)
        self.assertEqual(self.connection.response().status, 431)
        self.assertTrue(self.connection.is_closed)

    def test_many_headers(self) -> None:
        self.connection.send(b"POST /message HTTP/1.1\r\n" + b"X: " + b"y" * 2000 + b"\r\n")
        for _ in range(40):
            self.connection.send(b"X: " + b"y" * 2000 + b"\r\n")
        self.assertEqual(self.connection.response().status, 431)
        self.assertTrue(self.connection.is_closed)

    def test_a_certificate_in_a_header_fits(self) -> None:
        self.connection.post("/message", headers={"X-Client-Cert": "%0A" * 1500})
        self.assertEqual(self.connection.response().status, 200)

    def test_not_http(self) -> None:
        self.connection.send(b"\x16\x03\x01\r\n\r\n")
        self.assertTrue(self.connection.output.startswith(b"HTTP/1.1 400 "))
        self.assertTrue(self.connection.is_closed)

    def test_a_bad_header_is_never_a_contact(self) -> None:
        self.connection.send(b"POST /message HTTP/1.1\r\nbroken\r\nX: y\r\n\r\n")
        self.connection.send(b"\r\n\r\n")
        self.assertEqual(self.connection.output.count(b"HTTP/1.1"), 1)
        self.assertTrue(self.connection.output.startswith(b"HTTP/1.1 400 "))

    def test_both_lengths(self) -> None:
        self.connection.send(b"POST /message HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.assertTrue(self.connection.output.startswith(b"HTTP/1.1 400 "))

    def test_headers_that_are_not_text(self) -> None:
        with capturedLogs():
            self.connection.send(b"POST /message HTTP/1.1\r\nContent-Length: 0\r\nContent-Encoding: \xff\xfe\r\n\r\n")
        self.assertEqual(self.connection.response().status, 415)


class WritingTests(SynchronousTestCase):
    def test_head_and_body_travel_together(self) -> None:
        """One TLS record, one system call."""
        server = Server()
        connection = server.connect()
        writes: list[bytes] = []
        connection.transport.write = writes.append  # type: ignore[assignment]
        connection.post("/message")
        self.assertEqual(len(writes), 1)

    def test_head_requests_have_no_body(self) -> None:
        connection = Server().connect()
        connection.post("/message", method="HEAD")
        head, _, body = connection.output.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 400 "))
        self.assertEqual(body, b"")

    def test_http_1_0(self) -> None:
        connection = Server().connect()
        connection.send(b"POST /message HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(connection.response().status, 200)
        self.assertTrue(connection.is_closed)

    def test_lost_while_working(self) -> None:
        server = Server()
        server.world.ingestor.waiting_for = Deferred()
        connection = server.connect()
        connection.post("/message", wrapped(from_client()).SerializeToString())
        connection.lose()
        self.assertEqual(connection.output, b"")


class ShowAddressTests(SynchronousTestCase):
    """server-https.md 7."""

    def test_addresses(self) -> None:
        for address, shown in (
            (IPv4Address("TCP", "192.0.2.1", 4242), "192.0.2.1:4242"),
            (IPv6Address("TCP", "2001:db8::1", 4242), "[2001:db8::1]:4242"),
            (IPv6Address("TCP", "fe80::1%eth0", 4242), "[fe80::1%eth0]:4242"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 4242), "192.0.2.1:4242"),
        ):
            self.assertEqual(show_address(address), shown)

    def test_others_as_they_are(self) -> None:
        self.assertIn("/run/x", show_address(UNIXAddress("/run/x")))
