"""The connector of client-side services (client-tests.md M 120, 124, 125; client-services.md section 6)."""

from __future__ import annotations

import inspect
import io
import os
import struct
import subprocess
import sys
import threading
from typing import BinaryIO
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client_connector import connector
from fleetspeak.client_connector.connector import MAX_SIZE, FleetspeakConnection, ProtocolError
from fleetspeak.pb import common
from fleetspeak.wire import channelframes
from tests import vectors

FRAMES = vectors.load("channel_frames")
RECORDED = {frame["what"]: frame for frame in FRAMES["python_connector"]}
BEHAVIOUR = {case["case"]: case for case in FRAMES["python_connector_behaviour"]}
MAGIC = bytes.fromhex("0110eef1")


def connected(incoming: bytes = b"") -> tuple[FleetspeakConnection, io.BytesIO]:
    """A connection that has said hello, and what it writes from then on."""
    written = io.BytesIO()
    connection = FleetspeakConnection("0.5", io.BytesIO(MAGIC + incoming), written)
    written.seek(0)
    written.truncate()
    return connection, written


class WrittenBytes(SynchronousTestCase):
    """What it writes is what upstream's connector writes, byte for byte."""

    def hello(self, version: str | None) -> bytes:
        written = io.BytesIO()
        with mock.patch("os.getpid", return_value=1234):
            FleetspeakConnection(version=version, read_file=io.BytesIO(MAGIC), write_file=written)
        return written.getvalue()

    def check(self, what: str, message: common.Message) -> None:
        connection, written = connected()
        self.assertEqual(RECORDED[what]["returned"], connection.Send(message))
        self.assertEqual(RECORDED[what]["hex"], written.getvalue().hex())

    def test_hello_with_a_version(self) -> None:
        what = "constructor, version='0.5', pid 1234: magic + StartupData frame"
        self.assertEqual(RECORDED[what]["hex"], self.hello("0.5").hex())

    def test_hello_without_a_version(self) -> None:
        self.assertEqual(RECORDED["constructor, version=None, pid 1234"]["hex"], self.hello(None).hex())

    def test_heartbeat(self) -> None:
        connection, written = connected()
        self.assertIsNone(connection.Heartbeat())  # type: ignore[func-returns-value]
        self.assertEqual(RECORDED["Heartbeat()"]["hex"], written.getvalue().hex())

    def test_message(self) -> None:
        message = common.Message(message_type="RequestTypeA", message_id=b"\0\0\0")
        self.check("Send(Message(message_type='RequestTypeA', message_id=000000)); return value = body size", message)

    def test_empty_message(self) -> None:
        self.check("Send(Message()) - zero length body", common.Message())

    def test_message_with_everything(self) -> None:
        message = common.Message(
            message_type="T",
            priority=common.Message.HIGH,
            background=True,
            destination=common.Address(service_name="FRR"),
        )
        message.data.Pack(common.EmptyMessage())
        self.check(
            "Send(Message(message_type='T', priority HIGH, background, destination FRR, data Any EmptyMessage))",
            message,
        )

    def test_source_and_ids_are_passed_as_they_are(self) -> None:
        connection, written = connected()
        message = common.Message(source=common.Address(service_name="me"), source_message_id=b"id")
        connection.Send(message)
        self.assertEqual(channelframes.encode(message.SerializeToString()), written.getvalue())


class Behaviour(SynchronousTestCase):
    """Item 124: what it raises, returns and says (vector ``python_connector_behaviour``)."""

    def raises(self, case: str, expected: type[Exception], call: object, *arguments: object) -> None:
        recorded = BEHAVIOUR[case]
        self.assertEqual(recorded["exception"].rsplit(".", 1)[1], expected.__name__.rsplit(".", 1)[-1])
        error = self.assertRaises(expected, call, *arguments)
        self.assertEqual(recorded["text"], str(error))

    def test_item_124_send_of_something_else(self) -> None:
        self.raises("Send(object())", ValueError, connected()[0].Send, object())

    def test_item_124_send_to_system(self) -> None:
        message = common.Message(destination=common.Address(service_name="system"))
        self.raises("Send to service system", ValueError, connected()[0].Send, message)

    def test_item_124_send_of_too_much(self) -> None:
        message = common.Message()
        message.data.value = bytes(2 * 1024 * 1024)
        self.raises("Send of 2 MiB payload", ValueError, connected()[0].Send, message)

    def test_item_124_send_of_exactly_as_much_as_is_allowed(self) -> None:
        case = BEHAVIOUR["Send of a message with serialized size exactly 2097152 is accepted"]
        message = common.Message()
        message.data.value = bytes(MAX_SIZE - 8)
        self.assertEqual(case["size"], message.ByteSize())
        self.assertEqual(case["returned"], connected()[0].Send(message))

    def test_item_124_wrong_first_magic(self) -> None:
        case = "constructor with wrong first magic (4 bytes 00)"
        self.raises(case, ProtocolError, FleetspeakConnection, None, io.BytesIO(bytes(4)), io.BytesIO())

    def test_item_124_recv(self) -> None:
        recorded = BEHAVIOUR["Recv of a good frame"]
        connection, _ = connected(bytes.fromhex(recorded["input_hex"]))
        message, size = connection.Recv()
        self.assertEqual(recorded["result"], [{"message_type": message.message_type}, size])

    def test_item_124_recv_of_too_much(self) -> None:
        connection, _ = connected((MAX_SIZE + 1).to_bytes(4, "little"))
        self.raises("Recv with size 2097153", ProtocolError, connection.Recv)

    def test_item_124_recv_with_a_bad_magic_behind(self) -> None:
        connection, _ = connected(bytes.fromhex("030000002a0158") + bytes((1, 2, 3, 4)))
        self.raises("Recv with bad trailing magic", ProtocolError, connection.Recv)

    def test_item_124_recv_when_the_client_is_gone(self) -> None:
        self.raises("Recv at EOF before size", struct.error, connected()[0].Recv)

    def test_item_124_recv_when_the_client_goes_inside_a_message(self) -> None:
        connection, _ = connected(bytes.fromhex("030000002a01"))
        self.assertRaises(struct.error, connection.Recv)

    def test_item_124_no_environment(self) -> None:
        with mock.patch.dict(os.environ, clear=True):
            self.raises("constructor without env", ValueError, FleetspeakConnection)

    def test_item_124_environment_that_is_no_number(self) -> None:
        with mock.patch.dict(os.environ, {"FLEETSPEAK_COMMS_CHANNEL_INFD": "abc"}):
            self.raises("constructor with non-numeric INFD", ValueError, FleetspeakConnection)


class Names(SynchronousTestCase):
    """Item 125: what existing services import and call."""

    def test_item_125_public_names_and_signatures(self) -> None:
        self.assertEqual(2097152, connector.MAX_SIZE)
        self.assertEqual((Exception,), ProtocolError.__bases__)
        parameters = inspect.signature(FleetspeakConnection).parameters.values()
        self.assertEqual(["version", "read_file", "write_file"], [each.name for each in parameters])
        self.assertEqual([None, None, None], [each.default for each in parameters])

    def test_item_125_needs_no_twisted_and_no_grpc(self) -> None:
        code = (
            "import sys, fleetspeak.client_connector.connector as c; "
            "sys.exit(any(name.split('.')[0] in ('twisted', 'grpc', 'zope', 'absl', 'cryptography') "
            "for name in sys.modules))"
        )
        self.assertEqual(0, subprocess.run([sys.executable, "-c", code], check=False).returncode)


class Threads(SynchronousTestCase):
    """Whole frames are read and written under the locks."""

    def pipe(self) -> tuple[BinaryIO, BinaryIO]:
        read, write = os.pipe()
        reader, writer = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self.addCleanup(reader.close)
        self.addCleanup(writer.close)
        return reader, writer

    def test_many_threads_send_and_receive(self) -> None:
        to_service, from_client = self.pipe()
        to_client, from_service = self.pipe()
        from_client.write(MAGIC)
        from_client.flush()
        connection = FleetspeakConnection("0.5", to_service, from_service)
        per_thread, threads = 200, 4
        received: list[str] = []

        def send(thread: int) -> None:
            for number in range(per_thread):
                connection.Send(common.Message(message_type=f"{thread}-{number}", source_message_id=bytes(number)))

        def receive() -> None:
            for _ in range(per_thread):
                received.append(connection.Recv()[0].message_type)

        def echo() -> None:
            decoder = channelframes.Decoder()
            seen = 0
            while seen < per_thread * threads + 1:
                for body in decoder.feed(to_client.read1()):  # type: ignore[attr-defined]
                    seen += 1
                    if seen > 1:  # the first is StartupData
                        from_client.write(channelframes.encode(body))
                from_client.flush()

        workers = [threading.Thread(target=echo)]
        workers += [threading.Thread(target=send, args=(number,)) for number in range(threads)]
        workers += [threading.Thread(target=receive) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        expected = {f"{thread}-{number}" for thread in range(threads) for number in range(per_thread)}
        self.assertEqual(expected, set(received))


class Acks(SynchronousTestCase):
    """The ack pipe, as a client offers it."""

    def connect(self) -> tuple[FleetspeakConnection, int, int]:
        """A connection, our end of its ack pipe, and our end of what it writes."""
        fds = [os.pipe() for _ in range(3)]
        (in_r, in_w), (out_r, out_w), (ack_r, self.ack_w) = fds
        os.write(in_w, MAGIC)
        names = {"INFD": in_r, "OUTFD": out_w, "ACKFD": ack_r}
        environment = {f"FLEETSPEAK_COMMS_CHANNEL_{name}": str(fd) for name, fd in names.items()}
        with mock.patch.dict(os.environ, environment):
            connection = FleetspeakConnection("0.5")
        self.addCleanup(connection._read_file.close)
        self.addCleanup(connection._write_file.close)
        for descriptor in (in_w, out_r, ack_r):
            self.addCleanup(os.close, descriptor)
        return connection, self.ack_w, out_r

    def test_it_asks_for_acks_right_after_its_startup_data(self) -> None:
        _, ack, written = self.connect()
        os.close(ack)
        startup, want = map(common.Message.FromString, channelframes.Decoder().feed(os.read(written, 4096)))
        self.assertEqual("StartupData", startup.message_type)
        expected = common.Message(message_type="WantAcks", destination=common.Address(service_name="system"))
        self.assertEqual(expected, want)

    def test_send_waits_for_its_number_and_not_for_heartbeats(self) -> None:
        connection, ack, _ = self.connect()
        connection.Heartbeat()
        os.write(ack, struct.pack("<Q", 1))
        self.assertEqual(0, connection.Send(common.Message()))
        connection.Heartbeat()
        late = threading.Timer(0.01, os.write, (ack, struct.pack("<QQ", 2, 5)))
        late.start()
        for _ in range(4):
            connection.Send(common.Message())
        late.join()
        os.close(ack)

    def test_a_client_that_goes_away_breaks_the_pipe_for_all_who_wait(self) -> None:
        connection, ack, _ = self.connect()
        broken: list[BaseException] = []

        def send() -> None:
            try:
                connection.Send(common.Message())
            except BrokenPipeError as error:
                broken.append(error)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        os.write(ack, struct.pack("<Q", 1))
        os.close(ack)
        for thread in threads:
            thread.join(30)
        self.assertEqual(3, len(broken))
        self.assertRaises(BrokenPipeError, connection.Send, common.Message())

    def test_a_descriptor_that_was_not_handed_down_is_not_used(self) -> None:
        """A launcher may pass on the environment, but only the descriptors that it knows."""
        with open(os.devnull) as other:
            for text in ("", "x", "-1", "99999", "9" * 40, str(other.fileno())):
                with mock.patch.dict(os.environ, {"FLEETSPEAK_COMMS_CHANNEL_ACKFD": text}):
                    self.assertIsNone(connector._AckReader.from_environment(), text)
