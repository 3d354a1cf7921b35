"""SIGHUP to a real client with a real server and real daemons, by both ways to start it."""

from __future__ import annotations

import os
import signal
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from google.protobuf import text_format

from fleetspeak.pb import client_config, daemon_config, system
from tests.programs import Program, eventually

BIN = Path(sys.executable).parent

DAEMON = """
import os, sys
from fleetspeak.client_connector.connector import FleetspeakConnection
connection = FleetspeakConnection(version="1")
open(os.path.join(sys.argv[1], f"{sys.argv[2]}.{os.getpid()}"), "w").close()
while True:
    connection.Recv()
"""


class ReloadTests(unittest.TestCase):
    WAY = ("fleetspeak-client",)
    LOG = ("-logtostderr",)

    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        for name in ("etc", "etc/services", "etc/textservices", "pids"):
            (self.folder / name).mkdir()
        (self.folder / "daemon.py").write_text(DAEMON)
        database = self.folder / "fleetspeak.sqlite"
        server = self.run_program(
            "fleetspeak-server", "--https_addr=127.0.0.1:0", "--admin_addr=", f"--database_path={database}"
        )
        self.address = server.wait_for_line("HTTPS frontend listens on ").split()[-1]
        server.wait_for_line("Fleetspeak server started")
        self.configure()

    def configure(self, **fields: object) -> None:
        config = client_config.Config(
            trusted_certs=(self.folder / "fleetspeak-ca.pem").read_text(), server=[self.address], streaming=True
        )
        config.filesystem_handler.configuration_directory = str(self.folder / "etc")
        config.filesystem_handler.state_file = str(self.folder / "state")
        config.MergeFrom(client_config.Config(**fields))  # type: ignore[arg-type]
        (self.folder / "client.config").write_text(text_format.MessageToString(config))

    def daemon(self, name: str, argument: str = "") -> None:
        """Write its service file."""
        config = system.ClientServiceConfig(name=name, factory="Daemon")
        argv = [sys.executable, str(self.folder / "daemon.py"), str(self.folder / "pids"), name, argument]
        config.config.Pack(daemon_config.Config(argv=argv, disable_resource_monitoring=True))
        (self.folder / "etc" / "textservices" / name).write_text(text_format.MessageToString(config))

    def pids(self, name: str, count: int = 1) -> set[int]:
        """Of all its processes so far, when there are so many."""

        def found() -> set[int] | None:
            pids = {int(path.suffix[1:]) for path in (self.folder / "pids").glob(f"{name}.*")}
            return pids if len(pids) >= count else None

        return eventually(found, f"{count} of {name}")

    def run_program(self, *words: str) -> Program:
        program = Program(words[0], [BIN / words[0], *words[1:]], folder=self.folder)
        self.addCleanup(program.make_sure_it_ended)
        return program

    def start_client(self) -> Program:
        client = self.run_program(*self.WAY, "--config", str(self.folder / "client.config"), *self.LOG)
        client.wait_for_line("established as client")
        return client

    def reload(self, client: Program) -> None:
        times = len(client.lines_matching("the configuration was read anew")) + 1
        os.kill(client.pid, signal.SIGHUP)
        client.wait_for_line("the configuration was read anew", times=times)

    def stream(self, client: Program) -> object:
        """The address of our end of its first connection; another one may be left of a file that was asked for."""
        found = [one for one in psutil.Process(client.pid).net_connections() if one.status == "ESTABLISHED"]
        return min(found, key=lambda one: one.fd).laddr if found else None

    def test_item_131_a_reload_touches_only_what_has_changed(self) -> None:
        for name in ("kept", "changed", "removed"):
            self.daemon(name)
        client = self.start_client()
        old = {name: self.pids(name) for name in ("kept", "changed", "removed")}
        state = (self.folder / "state").read_bytes()
        connection = self.stream(client)
        self.daemon("changed", "otherwise")
        self.daemon("new")
        (self.folder / "etc" / "textservices" / "removed").unlink()
        self.reload(client)
        (new,) = self.pids("new")
        (changed,) = self.pids("changed", 2) - old["changed"]
        self.assertEqual(self.pids("kept"), old["kept"])
        running = {child.pid for child in psutil.Process(client.pid).children()}
        self.assertEqual(running, {new, changed, *old["kept"]})
        self.assertEqual(self.stream(client), connection, "the same connection")

        self.configure(client_label=["alpha"])
        self.reload(client)
        eventually(lambda: self.stream(client) not in (connection, None), "a new one")
        self.assertEqual({child.pid for child in psutil.Process(client.pid).children()}, running)
        self.assertEqual((self.folder / "state").read_bytes()[:100], state[:100], "the same key")
        self.assertEqual(client.terminate(), 0)

    def test_a_mistake_in_the_configuration_is_said_and_the_client_goes_on(self) -> None:
        self.daemon("kept")
        client = self.start_client()
        pids = self.pids("kept")
        connection = self.stream(client)
        (self.folder / "client.config").write_text("streaming: true\nservers: 1")
        os.kill(client.pid, signal.SIGHUP)
        client.wait_for_line(
            r"the new configuration cannot be used, the client goes on with the one it has: .*client\.config:2:1"
        )
        self.assertEqual((self.stream(client), self.pids("kept")), (connection, pids))
        self.configure()
        self.reload(client)
        self.assertEqual((self.stream(client), self.pids("kept")), (connection, pids))
        self.assertEqual(client.terminate(), 0)


class TwistdReloadTests(ReloadTests):
    WAY = ("twistd", "--nodaemon", "--pidfile=", "fleetspeak-client")
    LOG = ()
