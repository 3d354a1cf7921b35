"""``fleetspeak-server`` and ``fleetspeak-client`` in place of the Go programs: command lines, logs, exit statuses."""

from __future__ import annotations

import os
import signal
import sys
import time
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf import text_format

from fleetspeak.cli.foreground import client_flags, server_flags
from fleetspeak.client.tap import Options as ClientOptions
from fleetspeak.pb import client_config
from fleetspeak.security.certificates import make_authority, to_pem
from fleetspeak.server.tap import Options as ServerOptions
from tests.programs import Program

BIN = Path(sys.executable).parent


class ForegroundTestCase(unittest.TestCase):
    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def start(self, name: str, *words: str) -> Program:
        program = Program(name, [BIN / name, *words], folder=self.folder)
        self.addCleanup(program.make_sure_it_ended)
        return program


class FlagTests(unittest.TestCase):
    def test_what_twistd_takes_they_take(self) -> None:
        for flags, options in ((server_flags(), ServerOptions()), (client_flags(), ClientOptions())):
            named = {flag.name.replace("_", "-") for flag in flags.known()}
            taken = {name for name in options.synonyms if len(name) > 1} - {"help", "version"}
            self.assertEqual(named, taken)


class ServerTests(ForegroundTestCase):
    def test_with_the_go_servers_command_line_and_files_as_a_unit_has_them(self) -> None:
        config = self.folder / "config"
        config.write_text(f"""
            configuration_name: "Test"
            components_config {{
              https_config {{ listen_address: "127.0.0.1:0" }}
              admin_config {{ listen_address: "127.0.0.1:0" }}
            }}
            public_host_port: "localhost:4443"
            trusted_cert_file: "{self.folder}/ca.pem" trusted_cert_key_file: "{self.folder}/ca-key.pem"
            server_cert_file: "{self.folder}/server.pem" server_cert_key_file: "{self.folder}/server-key.pem"
            server_component_configuration_file: "{self.folder}/server.components.config"
        """)
        (self.folder / "server.services.config").touch()
        configurator = self.start("fleetspeak-config", "--config", str(config), "-logtostderr")
        self.assertEqual(configurator.wait(), 0)
        server = self.start(
            "fleetspeak-server",
            "--components_config", f"{self.folder}/server.components.config",
            f"-services_config={self.folder}/server.services.config",
            "-database_path=db.sqlite",
            "-log_dir", ".",
            "-stderrthreshold=INFO",
        )  # fmt: skip
        server.wait_for_line(r"^I.*\] Fleetspeak server started\.")
        self.assertEqual(server.terminate(), 0)
        self.assertIn("Fleetspeak server started.", (self.folder / "fleetspeak-server.INFO").read_text())
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_without_files_it_tells_how_to_start_a_client_and_stops_on_ctrl_c(self) -> None:
        server = self.start("fleetspeak-server", "-https_addr=127.0.0.1:0", "--admin-addr", "127.0.0.1:0")
        server.wait_for_line("--trusted-cert-file .*fleetspeak-ca.pem")
        server.wait_for_line("Fleetspeak server started")
        self.assertEqual(server.end(signal.SIGINT), 0)

    def test_a_configuration_that_cannot_be_read_is_one_line_and_status_1(self) -> None:
        server = self.start("fleetspeak-server", "-services_config", "none", "-logtostderr")
        self.assertEqual(server.wait(), 1)
        (line,) = server.lines
        self.assertIn("Unable to read services configuration file [none]: No such file or directory", line)

    def test_an_unknown_flag_is_usage_and_status_2(self) -> None:
        server = self.start("fleetspeak-server", "-nonsense")
        self.assertEqual(server.wait(), 2)
        self.assertEqual(server.lines[0], "flag provided but not defined: -nonsense")
        self.assertIn("Usage of fleetspeak-server", server.lines[1])


class ClientTests(ForegroundTestCase):
    def start_client(self, *words: str) -> Program:
        """A client whose server is not there: it goes on trying."""
        ca, _ = make_authority("CA", time.time())
        (self.folder / "client.config").write_text(
            text_format.MessageToString(
                client_config.Config(
                    trusted_certs=to_pem(ca),
                    server=["127.0.0.1:1"],
                    filesystem_handler=client_config.FilesystemHandler(
                        configuration_directory=str(self.folder), state_file=str(self.folder / "state")
                    ),
                )
            )
        )
        client = self.start("fleetspeak-client", "--config", str(self.folder / "client.config"), "-logtostderr", *words)
        client.wait_for_line(r"\] .*127\.0\.0\.1:1\b.*refused")
        return client

    def test_it_runs_with_the_go_clients_flags_and_stops_with_status_0(self) -> None:
        client = self.start_client("-std_forward=false", "-v=2", "-profile_dir", "/tmp")
        self.assertTrue((self.folder / "state").exists(), "the state is written before the first contact")
        self.assertEqual(client.terminate(), 0)

    def test_a_second_client_on_the_same_state_is_one_line_and_status_1(self) -> None:
        first = self.start_client()
        config = str(self.folder / "client.config")
        second = self.start("fleetspeak-client", "--config", config, "-logtostderr")
        self.assertEqual(second.wait(), 1)
        (line,) = second.lines_matching("Stopped due to unrecoverable error")
        self.assertIn(f"another client runs on the same state: process {first.pid} has locked", line)
        first.kill()
        third = self.start("fleetspeak-client", "--config", config, "-logtostderr")
        third.wait_for_line("refused")
        self.assertEqual(third.terminate(), 0)

    def test_item_131_sigusr1_writes_a_heap_profile_and_sigterm_is_status_0(self) -> None:
        client = self.start_client("-profile_dir", str(self.folder))
        os.kill(client.pid, signal.SIGUSR1)
        client.wait_for_line("wrote a heap profile to ")
        (profile,) = self.folder.glob(f"fleetspeakd-heap-pprof-{client.pid}-*")
        self.assertIn("builtins.dict", profile.read_text())
        self.assertTrue(client.running)
        self.assertEqual(client.terminate(), 0)

    def test_no_configuration_is_one_line_and_status_1(self) -> None:
        client = self.start("fleetspeak-client", "-config", "none")
        self.assertEqual(client.wait(), 1)
        (line,) = client.lines
        self.assertIn('Stopped due to unrecoverable error: unable to read configuration file "none"', line)

    def test_help_is_status_0(self) -> None:
        client = self.start("fleetspeak-client", "--help")
        self.assertEqual(client.wait(), 0)
        self.assertTrue(client.lines_matching("-std_forward"))
