"""The server as an operator starts it: the real program, from its first line to its exit status."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
import unittest
from pathlib import Path

import grpc

from fleetspeak import rpc
from fleetspeak.pb import admin, common, system
from fleetspeak.testing.wireclient import Connection, Identity, RefusedError
from tests.fleet.server import TWISTD
from tests.programs import Program, eventually

SERVICES = """
services { name: "sink" factory: "NOOP" }
services {
  name: "keep" factory: "MessageSaver"
  config { [type.googleapis.com/google.protobuf.StringValue] { value: "%s/kept" } }
}
"""


class ServerCase(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        (self.folder / "services").write_text(SERVICES % self.folder)

    def start(self, *options: str, **environment: str) -> Program:
        argv = [TWISTD, "--nodaemon", "--pidfile=", "fleetspeak-server", *options]
        program = Program("server", argv, folder=self.folder, environment=environment)
        self.addCleanup(program.make_sure_it_ended)
        return program

    def address(self, program: Program, what: str) -> tuple[str, int]:
        line = program.wait_for_line(f"{what} listens on ")
        host, _, port = line.rpartition(" ")[2].rpartition(":")
        return host, int(port)


def note(service: str, number: int, kind: str = "Note") -> common.Message:
    message = common.Message(message_type=kind, source_message_id=b"note%012d" % number)
    message.source.service_name, message.destination.service_name = service, service
    return message


class RunningTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.program = self.start("--https-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--services_config=services")
        self.program.wait_for_line("Fleetspeak server started.")
        self.program.wait_for_line(re.escape(str(self.folder / "fleetspeak-ca.pem")))
        self.program.wait_for_line("fleetspeak-client --trusted-cert-file .* --server 127.0.0.1:")
        channel = grpc.insecure_channel("{}:{}".format(*self.address(self.program, "admin API")))
        self.addCleanup(channel.close)
        self.admin = rpc.admin.AdminStub(channel)
        self.identity = Identity.make()

    def connect(self) -> Connection:
        _, port = self.address(self.program, "HTTPS frontend")
        connection = Connection(("localhost", port), (self.folder / "fleetspeak-ca.pem").read_text(), self.identity)
        self.addCleanup(connection.close)
        return connection

    def test_the_small_set_up_from_start_to_stop(self) -> None:
        info = system.ClientInfoData(labels=[common.Label(service_name="client", label="blue")])
        hello = note("system", 1, "ClientInfo")
        hello.data.Pack(info)
        kept = note("keep", 2)
        connection = self.connect()
        self.assertEqual(list(connection.poll(common.ContactData()).messages), [], "an empty poll is answered")
        connection.poll(common.ContactData(messages=[hello, kept, note("sink", 3), note("nobody", 4)]))

        [client] = self.admin.ListClients(admin.ListClientsRequest(), timeout=10).clients
        self.assertEqual(client.client_id, self.identity.client_id)
        self.assertEqual([label.label for label in client.labels], ["blue"], "ClientInfo was processed at once")
        self.assertEqual(len(list((self.folder / "kept").iterdir())), 1)

        order = note("hello", 5, "Order")
        order.message_id, order.destination.client_id = b"o" * 32, self.identity.client_id
        self.admin.InsertMessage(order, timeout=10)
        [received] = connection.poll(common.ContactData()).messages
        self.assertEqual(received.message_id, order.message_id)
        ack = note("system", 6, "MessageAck")
        ack.data.Pack(system.MessageAckData(message_ids=[received.message_id]))
        connection.poll(common.ContactData(messages=[ack]))
        status = self.admin.GetMessageStatus(admin.GetMessageStatusRequest(message_id=order.message_id), timeout=10)
        self.assertTrue(status.result.HasField("processed_time"))

        forwarded = note("sink", 7)
        forwarded.message_id = b"s" * 32
        self.admin.InsertMessage(forwarded, timeout=10)
        request = admin.GetMessageStatusRequest(message_id=forwarded.message_id)
        eventually(
            lambda: self.admin.GetMessageStatus(request, timeout=10).HasField("result"),
            "a message between server services does not wait for the backlog",
        )

        connection.close()
        self.assertEqual(self.program.terminate(), 0)
        self.assertEqual(self.program.lines_matching("Traceback|Unhandled"), [])

    def test_a_blacklisted_client_is_asked_to_rekey_at_once(self) -> None:
        connection = self.connect()
        connection.poll(common.ContactData())
        self.admin.BlacklistClient(admin.BlacklistClientRequest(client_id=self.identity.client_id), timeout=10)
        [request] = connection.poll(common.ContactData()).messages
        self.assertEqual(request.message_type, "RekeyRequest")


class StartFailureTests(ServerCase):
    """One clear line, exit status 1, no traceback, no half-started process."""

    def assert_fails(self, words: str, *options: str, **environment: str) -> None:
        program = self.start(*options, **environment)
        self.assertEqual(program.wait(), 1)
        self.assertEqual(len(program.lines_matching(words)), 1, program.lines)
        self.assertEqual(program.lines_matching("Traceback|Unhandled|server started"), [])

    def taken_port(self) -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        port: int = listening.getsockname()[1]
        return port

    def test_the_frontends_address_is_taken(self) -> None:
        port = self.taken_port()
        self.assert_fails(
            f"Unable to initialize Fleetspeak server: failed to listen on .*{port}",
            f"--https-addr=127.0.0.1:{port}",
            "--admin-addr=127.0.0.1:0",
        )

    def test_a_service_cannot_be_made(self) -> None:
        (self.folder / "services").write_text('services { name: "a" factory: "SPELL" }')
        self.assert_fails(r"unable to find factory \[SPELL\]", "--services-config=services")

    def test_a_plug_in_is_missing(self) -> None:
        self.assert_fails(
            "fleetspeak-server: --authorizer: there is no magic; there are: all, label", "--authorizer=magic"
        )


class PlugInTests(ServerCase):
    def test_store_and_authorizer_of_choice(self) -> None:
        program = self.start(
            "--https-addr=127.0.0.1:0", "--admin-addr=", "--store=sqlite:x.sqlite", "--authorizer=label:corp"
        )
        program.wait_for_line("Fleetspeak server started.")
        self.assertTrue((self.folder / "x.sqlite").exists())
        self.assertFalse((self.folder / "fleetspeak.sqlite").exists())
        trusted = (self.folder / "fleetspeak-ca.pem").read_text()
        _, port = self.address(program, "HTTPS frontend")
        for labels, admitted in ((["corp"], True), (["home"], False)):
            connection = Connection(("localhost", port), trusted, Identity.make())
            self.addCleanup(connection.close)
            if admitted:
                connection.poll(common.ContactData(), labels)
            else:
                self.assertRaises(RefusedError, connection.poll, common.ContactData(), labels)
        self.assertEqual(program.terminate(), 0)


class WithoutGrpcTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        (self.folder / "hidden").mkdir()
        (self.folder / "hidden" / "grpc.py").write_text("raise ImportError('No module named grpc')")

    def test_help_works(self) -> None:
        program = self.start("--help", PYTHONPATH=str(self.folder / "hidden"))
        self.assertEqual(program.wait(), 0)
        self.assertTrue(program.lines_matching("--components-config="))

    def test_starting_says_what_to_install(self) -> None:
        program = self.start("--https-addr=127.0.0.1:0", PYTHONPATH=str(self.folder / "hidden"))
        self.assertEqual(program.wait(), 1)
        [line] = program.lines_matching("pip install")
        self.assertIn("pip install 'fleetspeak-twisted[server]'", line)
        self.assertEqual(program.lines_matching("Traceback"), [])


class RetentionTests(ServerCase):
    def test_ages_that_cannot_be_read(self) -> None:
        program = self.start("--keep=messages=7", "--https-addr=127.0.0.1:0")
        self.assertEqual(program.wait(), 1)
        self.assertTrue(program.lines_matching("messages=7: an age is a number with h"))
