"""``fleetspeak doctor`` as people run it, against our own server."""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from fleetspeak import rpc
from fleetspeak.ids import ClientId
from fleetspeak.pb import admin, common, system
from tests.fleet.server import SmallServer
from tests.programs import Program

BIN = Path(sys.executable).parent


class DoctorTests(unittest.TestCase):
    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.server = SmallServer(self.folder, "")
        self.addCleanup(self.server.clean_up)
        self.server.start()
        self.options = [
            "--trusted-cert-file=fleetspeak-ca.pem",
            f"--server=localhost:{self.server.https_port}",
            "--config-path=client",
        ]

    def start_client(self) -> Program:
        client = Program("client", [BIN / "fleetspeak-client", *self.options], folder=self.folder)
        self.addCleanup(client.make_sure_it_ended)
        client.wait_for_line("contact with .* established")
        return client

    def enrol(self) -> ClientId:
        """Let the client make contact once, and stop it."""
        self.assertEqual(self.start_client().terminate(), 0)
        [(client_id,)] = self.server.query("SELECT client_id FROM clients")
        assert isinstance(client_id, bytes)
        return ClientId(client_id)

    def contacts(self) -> int:
        return int(str(self.server.query("SELECT COUNT(*) FROM client_contacts")[0][0]))

    def doctor(self, *words: str) -> tuple[int, str]:
        program = Program("doctor", [BIN / "fleetspeak", "doctor", *words], folder=self.folder)
        self.addCleanup(program.make_sure_it_ended)
        status = program.wait()
        return status, "\n".join(program.lines)

    def test_a_good_client_that_runs_is_told_so_and_not_disturbed(self) -> None:
        client = self.start_client()
        contacts = self.contacts()
        state = (self.folder / "client" / "state").stat()
        status, output = self.doctor(*self.options)
        self.assertEqual(status, 0, output)
        self.assertIn("All checks hold.", output)
        status, output = self.doctor(*self.options, "--json")
        self.assertEqual((status, json.loads(output)["ok"]), (0, True))
        self.assertTrue({finding["status"] for finding in json.loads(output)["findings"]} <= {"ok", "skipped"})
        self.assertEqual(self.contacts(), contacts)
        self.assertEqual((self.folder / "client" / "state").stat().st_ino, state.st_ino)
        self.assertEqual(client.terminate(), 0)

    def test_a_server_with_a_list_of_revoked_certificates(self) -> None:
        (self.folder / "client").mkdir()
        listed = system.RevokedCertificateList(serials=[b"\x07"])
        request = admin.StoreFileRequest(
            service_name="system", file_name="RevokedCertificates", data=listed.SerializeToString()
        )
        self.server.admin().StoreFile(request, timeout=10)
        status, output = self.doctor(*self.options)
        self.assertEqual(status, 0, output)
        self.assertIn("list of revoked certificates", output)
        self.assertNotIn("no list", output)

    def test_a_client_that_is_stopped_makes_a_real_contact_that_takes_nothing_from_it(self) -> None:
        client_id = self.enrol()
        message = common.Message(destination=common.Address(service_name="ls", client_id=client_id))
        message.source.service_name = "operator"
        with self.server.admin_channel() as channel:
            rpc.admin.AdminStub(channel).InsertMessage(message, timeout=10)
        contacts = self.contacts()
        status, output = self.doctor(*self.options)
        self.assertEqual(status, 0, output)
        self.assertRegex(output, "ok +contact +the server takes contact data of this client")
        self.assertEqual(self.contacts(), contacts + 1)
        self.assertEqual(self.server.query("SELECT retry_count FROM pending_messages"), [(0,)])

    def test_a_contact_beside_a_running_client_is_made_on_demand(self) -> None:
        client = self.start_client()
        contacts = self.contacts()
        status, output = self.doctor(*self.options)
        self.assertRegex(output, "skipped +contact +the client may be running")
        self.assertEqual((status, self.contacts()), (0, contacts))
        status, output = self.doctor(*self.options, "--contact")
        self.assertRegex(output, "ok +contact ")
        self.assertEqual((status, self.contacts()), (0, contacts + 1))
        self.assertEqual(client.terminate(), 0)

    def test_a_blacklisted_client(self) -> None:
        client_id = self.enrol()
        with self.server.admin_channel() as channel:
            rpc.admin.AdminStub(channel).BlacklistClient(admin.BlacklistClientRequest(client_id=client_id), timeout=10)
        self.server.stop()  # it remembers clients for a while
        self.server.start()
        status, output = self.doctor(*self.options)
        self.assertRegex(output, "warning +contact +the server has blacklisted this client")
        self.assertEqual(status, 0, output)

    def test_a_client_that_was_never_started_is_not_enrolled(self) -> None:
        (self.folder / "client").mkdir()
        status, output = self.doctor(*self.options)
        self.assertEqual(status, 0, output)
        self.assertIn("nobody enrolled", output)
        self.assertEqual(self.server.query("SELECT COUNT(*) FROM clients"), [(0,)])
        self.assertEqual(list((self.folder / "client").glob("state*")), [])

    def test_a_server_that_is_down(self) -> None:
        self.server.stop()
        (self.folder / "client").mkdir()
        status, output = self.doctor(*self.options)
        self.assertEqual(status, 1, output)
        self.assertRegex(output, r"FAILED +tcp +no connection: .*refused")
        self.assertIn("-> check the port, and that the server runs there", output)
        self.assertIn("1 problem", output)

    def test_words_that_make_no_sense(self) -> None:
        for words in (["--client", "x", "--server", "a:1"], ["--nonsense"]):
            status, output = self.doctor(*words)
            self.assertEqual(status, 2, output)
        status, output = self.doctor()
        self.assertEqual(status, 1, output)
        self.assertIn("give --config FILE", output)
