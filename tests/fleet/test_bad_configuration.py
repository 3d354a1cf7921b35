"""Unreadable and wrong configuration: one line that says which file, which line, and what was expected (issue 2)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import TestCase

from tests.interop import peer
from tests.programs import Program


class WrongConfiguration(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.services = self.write("services.textproto", "")

    def test_a_file_that_is_not_there(self) -> None:
        missing = self.folder / "missing.textproto"
        self.assert_server_refuses(missing, str(missing), "No such file")
        self.assert_client_refuses(missing, str(missing), "No such file")

    def test_a_file_that_cannot_be_parsed(self) -> None:
        broken = self.write("broken.textproto", 'server: "localhost:1"\n\nserver: localhost\n')
        self.assert_client_refuses(broken, f"{broken}:3:")
        broken = self.write("broken-components.textproto", "https_config {\n  listen_address 5\n}\n")
        self.assert_server_refuses(broken, f"{broken}:2:")

    def test_a_field_that_does_not_exist(self) -> None:
        """The place, and which field may have been meant."""
        unknown = self.write("unknown.textproto", 'https_config {\n  listen_adress: ":1"\n}\n')
        self.assert_server_refuses(unknown, f"{unknown}:2:", "listen_adress", "listen_address")

    def test_bytes_that_are_no_text(self) -> None:
        binary = self.folder / "binary.textproto"
        binary.write_bytes(b"\xff\xfe\0\1")
        self.assert_server_refuses(binary, str(binary))
        self.assert_client_refuses(binary, str(binary))

    def test_a_directory(self) -> None:
        self.assert_server_refuses(self.folder, str(self.folder))
        self.assert_client_refuses(self.folder, str(self.folder))

    def test_values_that_cannot_work(self) -> None:
        empty = self.write("empty.textproto", "")
        self.assert_client_refuses(empty, str(empty), "trusted_certs")
        lacking = self.write("lacking.textproto", 'https_config { listen_address: ":1" }')
        self.assert_server_refuses(lacking, str(lacking), "https_config requires listen_address, certificates and key")

    def test_a_service_of_no_known_factory(self) -> None:
        self.services.write_text('services { name: "x" factory: "Magic" }')
        self.assert_server_refuses(self.write("empty.textproto", ""), "Magic", "NOOP")

    def test_an_admin_port_for_others_in_plaintext(self) -> None:
        elsewhere = self.write("elsewhere.textproto", 'admin_config { listen_address: "192.0.2.1:1" }')
        self.assert_server_refuses(
            elsewhere, "192.0.2.1:1", "failed to initialize admin server", "--admin-plaintext-anywhere"
        )

    def test_an_address_of_another_machine(self) -> None:
        elsewhere = self.write("elsewhere.textproto", 'health_check_config { listen_address: "192.0.2.1:1" }')
        self.assert_server_refuses(elsewhere, "192.0.2.1:1", "failed to initialize health check service")

    def test_a_database_that_another_server_has(self) -> None:
        """The admin API in a process of its own, on an SQLite database."""
        database = self.folder / "fleetspeak.sqlite"
        files = ["-components_config", self.write("empty.textproto", ""), "-services_config", self.services]
        argv = [peer.our_program("fleetspeak-server"), *files, "--database-path", database, "-logtostderr"]
        first = Program("first", argv, folder=self.folder)
        self.addCleanup(first.make_sure_it_ended)
        first.wait_for_line("Fleetspeak server started")
        alone = self.write("admin.textproto", 'admin_config { listen_address: "localhost:0" }')
        self.assert_server_refuses(alone, str(database), "one process", "mysql_data_source_name", str(first.pid))

    def test_a_database_that_is_none(self) -> None:
        (self.folder / "fleetspeak.sqlite").write_bytes(b"this is no database at all" * 100)
        self.assert_server_refuses(self.write("empty.textproto", ""), "fleetspeak.sqlite", "not a database")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def assert_server_refuses(self, components: Path, *words: str) -> None:
        arguments = ["-components_config", components, "-services_config", self.services]
        arguments += ["--database-path", self.folder / "fleetspeak.sqlite"]
        self.assert_refuses([peer.our_program("fleetspeak-server"), *arguments], *words)

    def assert_client_refuses(self, configuration: Path, *words: str) -> None:
        self.assert_refuses([peer.our_program("fleetspeak-client"), "-config", configuration], *words)

    def assert_refuses(self, command_line: list[str | Path], *words: str) -> None:
        """It ends with status 1 and says why in one line with all these words, without a traceback."""
        program = Program("program", [*command_line, "-logtostderr"], folder=self.folder)
        self.addCleanup(program.make_sure_it_ended)
        self.assertEqual(program.wait(), 1)
        complaints = [line for line in program.lines if all(word in line for word in words)]
        self.assertEqual(len(complaints), 1, program.lines)
        self.assertEqual(program.lines_matching("Traceback"), [])
