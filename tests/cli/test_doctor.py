"""``fleetspeak doctor`` as people run it, against our own server."""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from fleetspeak.pb import admin, system
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

    def doctor(self, *words: str) -> tuple[int, str]:
        program = Program("doctor", [BIN / "fleetspeak", "doctor", *words], folder=self.folder)
        self.addCleanup(program.make_sure_it_ended)
        status = program.wait()
        return status, "\n".join(program.lines)

    def test_a_good_client_that_runs_is_told_so_and_not_disturbed(self) -> None:
        client = Program("client", [BIN / "fleetspeak-client", *self.options], folder=self.folder)
        self.addCleanup(client.make_sure_it_ended)
        client.wait_for_line("contact with .* established")
        contacts = self.server.query("SELECT COUNT(*) FROM client_contacts")
        state = (self.folder / "client" / "state").stat()
        status, output = self.doctor(*self.options)
        self.assertEqual(status, 0, output)
        self.assertIn("All checks hold.", output)
        status, output = self.doctor(*self.options, "--json")
        self.assertEqual((status, json.loads(output)["ok"]), (0, True))
        self.assertTrue({finding["status"] for finding in json.loads(output)["findings"]} <= {"ok", "skipped"})
        self.assertEqual(self.server.query("SELECT COUNT(*) FROM client_contacts"), contacts)
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
