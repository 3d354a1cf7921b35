"""Bad input never ends the server and never loses what was accepted (issue 2, robustness).

One real server is given everything below; after each piece it must be the same process, show no traceback,
answer a good client by poll and by stream, and still hold every message that it accepted.
"""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from pathlib import Path
from typing import ClassVar
from unittest import TestCase

import grpc
import psutil
from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak import ids
from fleetspeak.pb import admin, common, monitoring
from fleetspeak.testing.wireclient import Connection, Identity, RefusedError, Response, Stream
from fleetspeak.wire import streamframes, varint

from .server import SmallServer

MIB = 1024 * 1024
LIMIT = 20 * MIB
BOMB = zlib.compress(bytes(200 * MIB), 9)
"""200 KB that want to become 200 MB."""

SERVICES = """
services { name: "noop" factory: "NOOP" }
services {
  name: "saver"
  factory: "MessageSaver"
  config { [type.googleapis.com/google.protobuf.StringValue] { value: "saved" } }
}
"""


class BadInput(TestCase):
    server: ClassVar[SmallServer]
    folder: ClassVar[Path]
    accepted: ClassVar[set[bytes]] = set()
    """Ids of all the messages that the good client was told are safe."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.server = SmallServer(cls.folder, SERVICES)
        cls.addClassCleanup(cls.server.clean_up)
        cls.server.start()
        cls.memory = psutil.Process(cls.server.program.pid).memory_info().rss

    def setUp(self) -> None:
        self.identity = Identity.make()
        self.good = Identity.make()

    def tearDown(self) -> None:
        """What must hold after every piece of bad input."""
        with self.connect(self.good) as connection:
            message = self.message("noop", b"by poll")
            self.assertNotEqual(connection.poll(common.ContactData(messages=[message])).sequencing_nonce, 0)
        self.accept(self.good, message)
        with self.open_stream(self.good) as stream:
            message = self.message("noop", b"by stream")
            stream.send(common.ContactData(messages=[message]))
            self.assertEqual(stream.receive().ack_index, 1)
        self.accept(self.good, message)
        stored = {row[0] for row in self.server.query("SELECT message_id FROM messages")}
        self.assertEqual(self.accepted - stored, set())
        self.assertTrue(self.server.program.running)
        self.assertEqual(self.server.program.lines_matching("Traceback|Unhandled"), [])
        self.assertLess(psutil.Process(self.server.program.pid).memory_info().rss - self.memory, 120 * MIB)

    # -- not even a contact

    def test_no_certificate(self) -> None:
        for path in ("/message", "/streaming-message"):
            with self.connect(None) as connection:
                self.assert_refused(connection.request("POST", path, b""), 400, "client cert")

    def test_garbage_instead_of_http(self) -> None:
        with self.connect(self.identity) as connection:
            connection.send(b"\0\xff" * 1000 + b"\r\n\r\n")
            self.assertEqual(connection.read_to_end()[:12], b"HTTP/1.1 400")

    def test_endless_headers(self) -> None:
        with self.connect(self.identity) as connection:
            connection.send(b"POST /message HTTP/1.1\r\n")
            with contextlib.suppress(OSError):  # it may hang up on us
                for _ in range(64 * MIB // 1000):
                    connection.send(b"X-Padding: " + b"x" * 1000 + b"\r\n")
            self.assertIn(connection.read_head()[0], (400, 431))

    def test_wrong_path_method_and_encoding(self) -> None:
        with self.connect(self.identity) as connection:
            self.assertEqual(connection.request("POST", "/nothing/here", b"").status, 404)
        with self.connect(self.identity) as connection:
            self.assert_refused(connection.request("GET", "/message", b""), 400, "GET not supported")
        with self.connect(self.identity) as connection:
            gzip = {"Content-Encoding": "gzip"}
            self.assert_refused(connection.request("POST", "/message", b"x", gzip), 415, "gzip")

    # -- polls

    def test_bytes_that_are_no_contact(self) -> None:
        bad = (b"\xff" * 100, common.WrappedContactData(contact_data=b"\xff" * 100).SerializeToString())
        for body in bad:
            with self.connect(self.identity) as connection:
                self.assertIn(connection.request("POST", "/message", body).status, (400, 500))

    def test_a_poll_of_20_mib_and_one_byte(self) -> None:
        """Refused by its Content-Length before the body comes; a chunked one as soon as it is too long."""
        with self.connect(self.identity) as connection:
            connection.send(connection.head("POST", "/message", {"Content-Length": str(LIMIT + 1)}))
            self.assert_refused(connection.read_response(), 400, "too large")
        with self.connect(self.identity) as connection:
            self.send_chunked_until_refused(connection, LIMIT + MIB)

    def test_a_poll_that_is_a_zip_bomb(self) -> None:
        with self.connect(self.identity) as connection:
            deflated = {"Content-Encoding": "deflate"}
            self.assert_refused(connection.request("POST", "/message", BOMB, deflated), 400, "")

    def test_101_messages_in_a_contact(self) -> None:
        contact = common.ContactData(messages=[self.message("noop", b"%d" % n) for n in range(101)])
        with self.connect(self.identity) as connection, self.assertRaises(RefusedError) as caught:
            connection.poll(contact)
        self.assertIn("101 messages, only 100 allowed", str(caught.exception))
        with self.connect(self.identity) as connection, self.assertRaises(RefusedError) as caught:
            Stream(connection, contact)
        self.assertIn("101 messages, only 100 allowed", str(caught.exception))

    def test_odd_messages_do_not_keep_a_good_one_from_being_accepted(self) -> None:
        """A well-formed but odd message is answered with 200, so that no client repeats it for ever."""
        good = self.message("noop", b"good")
        odd = [self.message("noop", b"odd") for _ in range(6)]
        odd[0].ClearField("destination")
        odd[1].destination.client_id = self.identity.client_id
        odd[2].ClearField("source")
        odd[3].source_message_id = b""
        odd[4].destination.service_name = ""
        odd[5].destination.service_name = "x" * 100_000
        with self.connect(self.identity) as connection:
            connection.poll(common.ContactData(messages=[*odd, good]))
        self.accept(self.identity, good)

    # -- streams

    def test_bad_magic(self) -> None:
        with self.connect(self.identity) as connection:
            self.assert_refused(self.start_stream(connection, b"\1\2\3\4" + streamframes.encode(b"")), 400, "magic")

    def test_bad_varint(self) -> None:
        with self.connect(self.identity) as connection:
            self.assert_refused(self.start_stream(connection, streamframes.MAGIC + b"\xff" * 11), 400, "")

    def test_a_first_record_of_20_mib_and_one_byte(self) -> None:
        """Refused by its length before any of it comes."""
        with self.connect(self.identity) as connection:
            start = streamframes.MAGIC + varint.encode(LIMIT + 1)
            self.assert_refused(self.start_stream(connection, start), 400, "bytes")

    def test_bad_later_records_end_the_stream_after_the_acknowledgements(self) -> None:
        for bad in (varint.encode(LIMIT + 1), b"\xff" * 11, streamframes.encode(b"\xff" * 100)):
            message = self.message("noop", b"before the bad one")
            with self.open_stream(self.identity) as stream:
                stream.send(common.ContactData(messages=[message]))
                stream.send_bytes(bad)
                self.assertEqual(stream.receive().ack_index, 1)
                self.assert_ends(stream)
            self.accept(self.identity, message)

    def test_101_messages_in_a_later_record(self) -> None:
        with self.open_stream(self.identity) as stream:
            stream.send(common.ContactData(messages=[self.message("noop", b"%d" % n) for n in range(101)]))
            self.assert_ends(stream)

    def test_a_stream_that_is_a_zip_bomb(self) -> None:
        headers = {"Content-Encoding": "deflate"}
        head = zlib.compressobj()
        start = (
            head.compress(streamframes.MAGIC + varint.encode(LIMIT)) + head.compress(bytes(200 * MIB)) + head.flush()
        )
        with self.connect(self.identity) as connection:
            self.assertIn(self.start_stream(connection, start, headers).status, (400, 500))

    # -- what ends the upstream process

    def test_1_a_signature_without_any_certificate(self) -> None:
        wrapped = common.WrappedContactData(contact_data=common.ContactData().SerializeToString())
        wrapped.signatures.add(algorithm=4, signature=b"x")
        with self.connect(self.identity) as connection:
            self.assertIn(connection.request("POST", "/message", wrapped.SerializeToString()).status, (200, 400))
        with self.open_stream(self.identity) as stream:
            stream.send_bytes(streamframes.encode(wrapped.SerializeToString()))
            self.assert_acknowledged_or_ended(stream)

    def test_2_an_empty_result_on_a_message_whose_processing_fails_for_now(self) -> None:
        saved = self.folder / "saved"
        away = self.folder / "away"
        saved.rename(away)
        saved.write_text("a file in the place of the folder")
        message = self.message("saver", b"with a result")
        message.result.SetInParent()
        with self.open_stream(self.identity) as stream:
            stream.send(common.ContactData(messages=[message]))
            self.assertEqual(stream.receive().ack_index, 1)
        self.accept(self.identity, message)
        saved.unlink()
        away.rename(saved)
        message_id = self.id_of(self.identity, message)
        pending = "SELECT message_id FROM pending_messages WHERE message_id = ?"
        self.assertEqual(self.server.query(pending, [message_id]), [(message_id,)])

    def test_3_resource_usage_without_usage(self) -> None:
        usage = monitoring.ResourceUsageData(scope="system", pid=1)
        usage.process_start_time.seconds = usage.data_timestamp.seconds = 1
        message = self.message("system", b"")
        message.message_type = "ResourceUsage"
        message.data.Pack(usage)
        with self.open_stream(self.identity) as stream:
            stream.send(common.ContactData(messages=[message]))
            self.assertEqual(stream.receive().ack_index, 1)
        self.accept(self.identity, message)

    def test_4_token_counters_that_wrap_around(self) -> None:
        """Grants near 2**64 add up to no more than the limit; messages still come."""
        huge = {"noop": 2**64 - 1, "system": 2**64 - 1}
        with self.open_stream(self.identity, common.ContactData(AllowedMessages=huge)) as stream:
            for index in (1, 2, 3):
                stream.send(common.ContactData(AllowedMessages=huge))
                self.assertEqual(stream.receive().ack_index, index)
            self.insert(self.identity, count=5)
            self.assertEqual(self.receive(stream, 5), 5)

    def test_5_create_broadcast_without_a_broadcast(self) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            self.server.admin().CreateBroadcast(admin.CreateBroadcastRequest(limit=1), timeout=10)
        codes = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
        self.assertIn(caught.exception.code(), codes)

    def test_6_a_message_pushed_on_a_stream(self) -> None:
        with self.open_stream(self.identity) as stream:
            self.insert(self.identity, count=3)
            self.assertEqual(self.receive(stream, 3), 3)

    # -- how

    def connect(self, identity: Identity | None) -> Connection:
        return self.server.connect(identity)

    def open_stream(self, identity: Identity, first: common.ContactData | None = None) -> Stream:
        return Stream(self.connect(identity), first or common.ContactData())

    def start_stream(self, connection: Connection, body: bytes, headers: dict[str, str] | None = None) -> Response:
        """Send the beginning of a stream's body as it is; returns the answer."""
        chunked = {"Transfer-Encoding": "chunked", "Connection": "close", **(headers or {})}
        connection.send(connection.head("POST", "/streaming-message", chunked))
        connection.send(b"%x\r\n%b\r\n" % (len(body), body))
        return connection.read_response()

    def send_chunked_until_refused(self, connection: Connection, size: int) -> None:
        connection.send(connection.head("POST", "/message", {"Transfer-Encoding": "chunked"}))
        try:
            for _ in range(size // 65536):
                connection.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        except OSError:
            return  # it hung up on us, which says it, too
        self.assert_refused(connection.read_response(), 400, "")

    def message(self, to: str, text: bytes) -> common.Message:
        message = common.Message(source_message_id=ids.random_message_id()[:16])
        message.source.service_name = "test"
        message.destination.service_name = to
        message.data.Pack(StringValue(value=text.decode()))
        return message

    def id_of(self, identity: Identity, message: common.Message) -> bytes:
        return ids.message_id_of(identity.client_id, "test", message.source_message_id)

    def accept(self, identity: Identity, message: common.Message) -> None:
        """The server has said that it has this one."""
        self.accepted.add(self.id_of(identity, message))

    def insert(self, identity: Identity, count: int) -> None:
        stub = self.server.admin()
        for _ in range(count):
            message = common.Message()
            message.source.service_name = "operator"
            message.destination.service_name = "noop"
            message.destination.client_id = identity.client_id
            stub.InsertMessage(message, timeout=10)

    def receive(self, stream: Stream, count: int) -> int:
        """Read records until so many messages have come; returns how many did."""
        came = 0
        while came < count:
            came += len(stream.receive().messages)
        return came

    def assert_refused(self, response: Response, status: int, text: str) -> None:
        self.assertEqual(response.status, status, response.body)
        self.assertIn(text, response.body.decode())
        self.assertGreater(len(response.body), 10)

    def assert_ends(self, stream: Stream) -> None:
        with self.assertRaises(OSError):
            while True:
                stream.receive()

    def assert_acknowledged_or_ended(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionError):
            self.assertEqual(stream.receive().ack_index, 1)
