"""Every way in which a client cannot start, by the real program: one line, and the exit status that upstream gives."""

from __future__ import annotations

import re
import sys
import time
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from fleetspeak.security.certificates import make_authority, to_pem
from tests.programs import Program

BIN = Path(sys.executable).parent
PEM = to_pem(make_authority("CA", time.time())[0])


class ClientStartCase(unittest.TestCase):
    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.config = self.folder / "client.config"

    def run_client(self, *words: str, python_path: str = "") -> Program:
        client = Program(
            "client",
            [BIN / "fleetspeak-client", *words],
            folder=self.folder,
            environment={"PYTHONPATH": python_path} if python_path else {},
        )
        self.addCleanup(client.make_sure_it_ended)
        return client

    def refused(self, *words: str, python_path: str = "") -> str:
        client = self.run_client(*words, python_path=python_path)
        self.assertEqual(client.wait(), 1)
        (line,) = client.lines
        prefix = "fleetspeak-client: Stopped due to unrecoverable error: "
        self.assertTrue(line.startswith(prefix), line)
        return line.removeprefix(prefix)

    def write(self, **changes: str) -> None:
        fields = {
            "trusted_certs": '"{}"'.format(PEM.replace("\n", "\\n")),
            "server": '"127.0.0.1:1"',
            "filesystem_handler": f'{{ configuration_directory: "{self.folder}" state_file: "{self.folder}/state" }}',
        }
        self.config.write_text("\n".join(f"{name}: {value}" for name, value in (fields | changes).items() if value))


class StartErrorTests(ClientStartCase):
    def test_item_7_no_config_value(self) -> None:
        self.assertIn("give --config FILE", self.refused())
        self.assertIn('unable to read configuration file ""', self.refused("-config="))

    def test_item_7_missing_file(self) -> None:
        problem = 'unable to read configuration file "none": No such file or directory'
        self.assertEqual(self.refused("-config", "none"), problem)

    def test_item_7_what_is_wrong_in_the_file(self) -> None:
        for changes, problem in [
            ({"no_such_field": "1"}, r"unable to parse configuration file .*:4:1: .* has no field no_such_field"),
            ({"trusted_certs": ""}, "unable to parse trusted_certs"),
            ({"trusted_certs": '"rubbish"'}, "unable to parse trusted_certs"),
            ({"server": ""}, "no server provided"),
            ({"filesystem_handler": ""}, "persistence_handler is required"),
            (
                {"filesystem_handler": '{ configuration_directory: "/none" }'},
                'configuration_directory "/none" does not exist',
            ),
            (
                {"filesystem_handler": f'{{ configuration_directory: "{self.folder}" state_file: "/none/state" }}'},
                'the directory of state_file "/none" does not exist',
            ),
            ({"proxy": '":bad"'}, "unable to parse proxy"),
        ]:
            with self.subTest(problem):
                self.write(**changes)
                self.assertRegex(self.refused("--config", str(self.config)), problem)

    def test_item_7_unknown_flag_and_help(self) -> None:
        self.assertEqual(self.run_client("-no_such_flag").wait(), 2)
        self.assertEqual(self.run_client("--help").wait(), 0)

    def test_a_state_with_a_broken_key_is_one_line_and_status_1(self) -> None:
        self.write()
        (self.folder / "state").write_bytes(b"\n\3key")
        client = self.run_client("--config", str(self.config), "-logtostderr")
        self.assertEqual(client.wait(), 1)
        (line,) = client.lines_matching("Stopped due to unrecoverable error")
        self.assertIn("unable to parse client key", line)
        self.assertEqual((self.folder / "state").read_bytes(), b"\n\3key")

    def test_a_folder_that_others_may_write_is_one_line_and_status_1(self) -> None:
        self.write()
        self.folder.chmod(0o777)
        line = self.refused("--config", str(self.config))
        self.assertIn(f"mend it with: chmod go-w {self.folder}, or give --insecure-config", line)
        client = self.run_client("--config", str(self.config), "-insecure_config", "-logtostderr")
        client.wait_for_line(f"{self.folder} is not safe to use")
        client.wait_for_line("refused")
        self.assertEqual(client.terminate(), 0)
        self.folder.chmod(0o755)
        client = self.run_client("--config", str(self.config), "-logtostderr")
        client.wait_for_line("refused")
        self.assertEqual(client.terminate(), 0)


class HardcodedTests(ClientStartCase):
    def bundle(self, text: str) -> str:
        path = self.folder / "bundle"
        path.mkdir(exist_ok=True)
        (path / "fleetspeak_hardcoded.py").write_text(text)
        return str(path)

    def test_a_repacked_client_needs_no_file_and_no_flag(self) -> None:
        bundle = self.bundle(
            f"TRUSTED_CERTS = '''{PEM}'''\n"
            'SERVERS = ["127.0.0.1:1"]\n'
            'SERVICES = [\'name: "fixed" factory: "NOOP"\']\n'
            'COMMUNICATOR = "max_poll_delay_seconds: 2 min_failure_delay_seconds: 1"\n'
        )
        client = self.run_client(python_path=bundle)
        client.wait_for_line("service fixed installed from fleetspeak_hardcoded")
        client.wait_for_line(r"127\.0\.0\.1:1\b.*refused", times=2)
        self.assertTrue((self.folder / "fleetspeak-client" / "state").exists())
        self.assertEqual(client.terminate(), 0)

    def test_it_counts_more_than_file_and_flags_and_its_services_come_first(self) -> None:
        self.write(server='"file.invalid:1"', client_label='"file"')
        (self.folder / "textservices").mkdir()
        (self.folder / "textservices" / "x").write_text('name: "of-the-file" factory: "NOOP"')
        bundle = self.bundle(
            'SERVERS = ["127.0.0.1:1"]\n'
            f'OPTIONS = {{"config": "{self.config}"}}\n'
            'SERVICES = [\'name: "fixed" factory: "NOOP"\']\n'
        )
        client = self.run_client("-config", "no-such-file", "-logtostderr", python_path=bundle)
        client.wait_for_line(r"127\.0\.0\.1:1\b.*refused")
        installed = [re.findall("service (.*) installed", line)[0] for line in client.lines_matching("installed from")]
        self.assertEqual(installed, ["fixed", "of-the-file"])
        self.assertFalse(client.lines_matching("file.invalid"))
        self.assertEqual(client.terminate(), 0)

    def test_a_mistake_in_it_is_one_line_and_status_1(self) -> None:
        line = self.refused(python_path=self.bundle("SERVER = ['127.0.0.1:1']"))
        self.assertEqual(line, "fleetspeak_hardcoded.SERVER: there is no such parameter; did you mean SERVERS?")
        line = self.refused(python_path=self.bundle("import no_such_module"))
        self.assertEqual(line, "fleetspeak_hardcoded: No module named 'no_such_module'")
