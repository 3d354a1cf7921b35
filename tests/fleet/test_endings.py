"""The exit statuses of a whole client, as whoever watches over it sees them (client-core section 1)."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import ClassVar
from unittest import TestCase

from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.ids import ClientId
from fleetspeak.pb import system
from tests.interop.fleet import OURS, POLLING, STREAMING, Client, Fleet, greeter
from tests.programs import Program, eventually


class AskedToEndTests(TestCase):
    """`Die` is not sent twice, so that a client which is started again goes on."""

    fleet: ClassVar[Fleet]

    @classmethod
    def setUpClass(cls) -> None:
        cls.fleet = Fleet(OURS, (OURS,))
        cls.addClassCleanup(cls.fleet.clean_up)
        cls.fleet.start_operators()
        cls.fleet.server(OURS).start()

    def test_items_21_131_die_is_status_7_and_sigterm_of_the_next_start_is_status_0(self) -> None:
        clients = {
            True: self.fleet.client(OURS, "forced", POLLING),
            False: self.fleet.client(OURS, "asked", STREAMING),
        }
        for client in clients.values():
            client.start()
        for force, client in clients.items():
            client_id = self.enrolled(client)
            self.fleet.operator.send(greeter(OURS), client_id, "system", system.DieRequest(force=force), "Die")
        for client in clients.values():
            self.assertEqual(client.program.wait(), 7)
            client.start().wait_for_line("established as client")
        for client in clients.values():
            eventually(lambda client=client: not self.pending(client), "nothing is left to be sent")
            self.assertEqual(client.program.terminate(), 0)

    def test_item_132_a_socket_service_without_a_peer_holds_up_nothing(self) -> None:
        client = self.fleet.client(OURS, "machine", POLLING)
        (client.folder / "etc" / "textservices" / "lonely").write_text(
            'name: "lonely" factory: "Socket"'
            f' config {{ [type.googleapis.com/fleetspeak.socketservice.Config] {{ api_proxy_path: "{client.folder}/s/s"'
            " } }"
        )
        client.start()
        client_id = self.enrolled(client)
        operator = self.fleet.operator
        operator.send(greeter(OURS), client_id, "lonely", StringValue(value="for nobody"))
        restart = system.RestartServiceRequest(name="lonely")
        operator.send(greeter(OURS), client_id, "system", restart, "RestartService")
        client.program.wait_for_line("service lonely restarted")
        began = time.monotonic()
        self.assertEqual(client.program.terminate(), 0)
        self.assertLess(time.monotonic() - began, 5)
        client.start().wait_for_line("established as client")
        operator.send(greeter(OURS), client_id, "system", system.DieRequest(force=True), "Die")
        self.assertEqual(client.program.wait(), 7)

    def enrolled(self, client: Client) -> ClientId:
        client_id = client.client_id
        eventually(lambda: self.fleet.operator.clients([client_id]), f"{client.name} enrols")
        return client_id

    def pending(self, client: Client) -> int:
        return self.fleet.operator.pending([client.client_id])


class AloneTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.fleet = Fleet(OURS, (OURS,))
        self.addCleanup(self.fleet.clean_up)
        self.folder = Path(folder.name)

    def test_items_59_82_too_lonely_from_the_start_is_status_2(self) -> None:
        programs: list[Program] = []
        for transport in (POLLING, STREAMING):
            client = self.fleet.client(OURS, str(transport), transport)
            (client.folder / "etc" / "communicator.txt").write_text(
                "failure_suicide_time_seconds: 1 min_failure_delay_seconds: 1"
            )
            programs.append(client.start())
        for program in programs:
            self.assertEqual(program.wait(), 2)
            self.assertTrue(program.lines_matching("giving up: Too Lonely!"))

    def test_an_unknown_flag_is_status_2_and_help_is_status_0(self) -> None:
        client = OURS.program("fleetspeak-client")
        self.assertEqual(Program("client", [client, "-nonsense"], folder=self.folder).wait(), 2)
        self.assertEqual(Program("client", [client, "--help"], folder=self.folder).wait(), 0)
