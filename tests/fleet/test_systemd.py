"""Both programs as services of Type=notify: ready when they are, alive while they are, and no sooner or longer."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from unittest import TestCase

from tests.interop.fleet import OURS
from tests.programs import PATIENCE, Program, eventually

from .server import SmallServer

DAEMON = """
name: "env"
factory: "Daemon"
config {{
  [type.googleapis.com/fleetspeak.daemonservice.Config] {{
    argv: "/bin/sh" argv: "-c" argv: "env > {path}; exec sleep 600" disable_resource_monitoring: true
  }}
}}
"""


class NotifyTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.server = SmallServer(self.folder, "")
        self.addCleanup(self.server.clean_up)

    def systemd(self, name: str) -> tuple[socket.socket, dict[str, str]]:
        """A socket for one service, and its environment."""
        path = str(self.folder / name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.settimeout(PATIENCE)
        return listener, {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}

    def wait_for(self, listener: socket.socket, field: str) -> list[str]:
        """All that comes until one message has this field."""
        heard: list[str] = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            heard.append(listener.recv(65536).decode())
            if any(line.startswith(field) for line in heard[-1].splitlines()):
                return heard
        raise AssertionError(f"no {field}: {heard}")

    def test_server_and_client(self) -> None:
        listener, environment = self.systemd("server.socket")
        server = Program("server", self.server.command_line(), folder=self.folder, environment=environment)
        self.server.program = server
        self.assertIn("WATCHDOG=1", self.wait_for(listener, "READY=1"))
        with self.server.connect(None):
            pass  # ready means that it listens
        self.client()
        self.wait_for(listener, "WATCHDOG=1")
        os.kill(server.pid, signal.SIGTERM)
        self.wait_for(listener, "STOPPING=1")
        self.assertEqual(server.wait(), 0)

    def client(self) -> None:
        listener, environment = self.systemd("client.socket")
        seen = self.folder / "environment"
        services = self.folder / "client" / "textservices"
        services.mkdir(parents=True)
        (services / "env").write_text(DAEMON.format(path=seen))
        client = Program(
            "client",
            [
                OURS.program("fleetspeak-client"),
                f"--trusted-cert-file={self.folder}/fleetspeak-ca.pem",
                f"--server=localhost:{self.server.https_port}",
                f"--config-path={self.folder}/client",
            ],
            folder=self.folder,
            environment=environment,
        )
        self.addCleanup(client.make_sure_it_ended)
        self.wait_for(listener, "READY=1")
        self.assertTrue(client.lines_matching("service env installed"), "ready means that services are installed")
        status = self.wait_for(listener, "STATUS=contact with localhost")[-1]
        self.assertRegex(status, r"STATUS=contact with localhost:\d+ at [-\d]+ [:\d]+; \d+ messages not confirmed")
        self.wait_for(listener, "WATCHDOG=1")
        words = eventually(lambda: seen.exists() and seen.read_text(), "the daemon has told its environment")
        self.assertNotIn("NOTIFY_SOCKET", words)
        self.assertNotIn("WATCHDOG", words)
        os.kill(client.pid, signal.SIGTERM)
        self.wait_for(listener, "STOPPING=1")
        self.assertEqual(client.wait(), 0)
