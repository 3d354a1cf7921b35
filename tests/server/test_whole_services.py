"""Services of the real program: one that raises what ends a program, and one behind mutual TLS."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import grpc

from fleetspeak import rpc
from fleetspeak.pb import admin, common
from fleetspeak.testing.wireclient import Connection, Identity
from tests.programs import Program, eventually
from tests.server.services.targets import Authority, Receiver
from tests.server.test_assembly import ServerCase, note

PLUG_IN = """
import sys

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.errors import TemporaryError
from fleetspeak.interfaces import IBatchServerService, IServerService, IServerServiceFactory


@implementer(IServerService)
class Raising:
    def start(self):
        pass

    def stop(self):
        pass

    def process(self, message):
        kind = message.message_type
        if kind == "Exit":
            sys.exit(3)
        if kind == "Interrupt":
            raise KeyboardInterrupt
        if kind == "Later":
            return self.later()
        if kind == "Chain":
            return Deferred().addCallback(lambda _: sys.exit(4)).callback(None)
        if kind == "Nonsense":
            return 7

    async def later(self):
        raise SystemExit(5)


@implementer(IBatchServerService)
class Lists(Raising):
    def process_batch(self, messages):
        return [None if each.message_type == "Good" else TemporaryError("not now") for each in messages]


@implementer(IPlugin, IServerServiceFactory)
class Factory:
    help = "For tests."
    config_type = None

    def __init__(self, name, kind):
        self.name = name
        self.kind = kind

    def make(self, config, context):
        return self.kind()


raising = Factory("Raising", Raising)
lists = Factory("Lists", Lists)
"""

SERVICES = """
services { name: "broken" factory: "Raising" }
services { name: "lists" factory: "Lists" }
services { name: "sink" factory: "NOOP" }
services {
  name: "secure" factory: "GRPC_TLS" max_parallelism: 5
  config {
    [type.googleapis.com/fleetspeak.grpctlsservice.Config] {
      target: "localhost:%d" cert_file: "%s" client_cert_file: "%s" client_key_file: "%s"
    }
  }
}
"""


class WholeServiceTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(self.folder / "authority", "Receivers")
        self.receiver = Receiver()
        server = grpc.server(concurrent.futures.ThreadPoolExecutor(10))
        rpc.grpcservice.add_ProcessorServicer_to_server(self.receiver, server)
        pair = self.authority.server("localhost")
        credentials = grpc.ssl_server_credentials([(pair[1], pair[0])], self.authority.pem, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        self.addCleanup(lambda: server.stop(None).wait())
        self.certificate, self.key = self.authority.client("fleetspeak")
        (self.folder / "services").write_text(SERVICES % (port, self.authority.path, self.certificate, self.key))
        plug_ins = self.folder / "site" / "fleetspeak" / "plugins"
        plug_ins.mkdir(parents=True)
        (plug_ins / "for_tests.py").write_text(PLUG_IN)
        self.program = self.run_server()
        self.connection = self.connect(self.program)

    def run_server(self) -> Program:
        program = self.start(
            "--https-addr=127.0.0.1:0",
            "--admin-addr=127.0.0.1:0",
            "--services-config=services",
            "--retry-max-attempts=5",
            PYTHONPATH=str(self.folder / "site"),
        )
        program.wait_for_line("Fleetspeak server started.")
        return program

    def connect(self, program: Program) -> Connection:
        channel = grpc.insecure_channel("{}:{}".format(*self.address(program, "admin API")))
        self.addCleanup(channel.close)
        self.admin = rpc.admin.AdminStub(channel)
        _, port = self.address(program, "HTTPS frontend")
        trusted = Path(self.folder / "fleetspeak-ca.pem").read_text()
        connection = Connection(("localhost", port), trusted, Identity.make())
        self.addCleanup(connection.close)
        return connection

    def send(self, *messages: common.Message) -> None:
        self.connection.poll(common.ContactData(messages=messages))

    def test_what_a_service_raises_does_not_end_the_program(self) -> None:
        kinds = ("Exit", "Interrupt", "Later", "Chain", "Nonsense")
        for number, kind in enumerate(kinds):
            self.send(note("broken", number, kind), note("sink", 100 + number))
        self.assertTrue(self.program.running)
        self.program.wait_for_line('service "broken" failed unexpectedly')
        order = note("broken", 50, "Exit")
        order.message_id = b"e" * 32
        self.admin.InsertMessage(order, timeout=10)
        status = self.admin.GetMessageStatus(admin.GetMessageStatusRequest(message_id=b"e" * 32), timeout=10)
        self.assertFalse(status.HasField("result"), "it waits")
        self.send(note("sink", 200))
        self.assertEqual(self.program.terminate(), 0)

    def test_messages_go_through_mutual_tls_and_lists_keep_what_they_could_not_take(self) -> None:
        self.send(
            *(note("secure", number) for number in range(20)), note("lists", 30, "Good"), note("lists", 31, "Bad")
        )
        self.assertEqual(len(self.receiver.seen), 20)
        self.assertEqual(self.receiver.callers, {"fleetspeak"})
        self.assertLessEqual(self.receiver.most, 5)
        order = note("secure", 50)
        order.message_id = b"o" * 32
        self.admin.InsertMessage(order, timeout=10)
        request = admin.GetMessageStatusRequest(message_id=order.message_id)
        eventually(
            lambda: self.admin.GetMessageStatus(request, timeout=10).HasField("result"), "it is processed at once"
        )
        self.connection.close()
        self.assertEqual(self.program.terminate(), 0)
        self.assertEqual(self.program.lines_matching("Traceback|Unhandled"), [])
        self.assertEqual(len(self.program.lines_matching('service "lists" could not process a message now')), 1)
        self.assertEqual(self.program.lines_matching("PRIVATE KEY"), [])
