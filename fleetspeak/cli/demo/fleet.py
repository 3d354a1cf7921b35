"""The demo's fleet: a server on SQLite and two clients, as real processes in a temporary folder."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from google.protobuf import text_format
from google.protobuf.message import Message as ProtobufMessage

from fleetspeak.cli.demo.interruption import Interruption
from fleetspeak.cli.demo.program import Program
from fleetspeak.pb import client, client_config, daemon_config, grpcservice, server, stdin_config, system

CLIENTS = ("polling", "streaming")
"""One of each kind."""

_TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=")
"""The command `twistd`, of the Python that runs the demo."""

_QUICK = client.CommunicatorConfig(max_poll_delay_seconds=2, max_buffer_delay_seconds=1, min_failure_delay_seconds=1)
"""Seconds that make a polling client lively enough to be watched."""


class Fleet:
    """Use it as a context manager: leaving it ends every process and removes the folder."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._folder = tempfile.TemporaryDirectory(prefix="fleetspeak-demo-")
        self.path = Path(self._folder.name)
        self.https_address = ""
        self.admin_address = ""
        self.clients: dict[str, str] = {}
        """Client ids as text, by name."""
        self._programs: list[Program] = []

    def start_server(self, service_addresses: Mapping[str, str]) -> None:
        """Start the server; messages for each of these services go to a gRPC address.

        Raises ProgramFailed.
        """
        services = self._write("server.services", _server_services(service_addresses))
        options = ["--https-addr", "localhost:0", "--admin-addr", "localhost:0"]
        options += ["--database-path", str(self.path / "fleet.sqlite"), "--services-config", str(services)]
        program = self._run("server", "fleetspeak-server", *options)
        self.https_address = f"localhost:{_port(program.wait_for('HTTPS frontend listens on (.*)'))}"
        self.admin_address = f"localhost:{_port(program.wait_for('admin API listens on (.*)'))}"
        program.wait_for("(server started)")

    def start_client(self, name: str) -> None:
        """Start a client that polls or streams, as `name` says, and wait for its first contact.

        Raises ProgramFailed.
        """
        folder = self.path / name
        for service in _client_services():
            self._write(f"{name}/textservices/{service.name}", service)
        self._write(f"{name}/communicator.txt", _QUICK)
        settings = client_config.Config(
            trusted_certs=(self.path / "fleet-ca.pem").read_text(),
            server=[self.https_address],
            client_label=[f"demo-{name}"],
            streaming=name == "streaming",
        )
        settings.filesystem_handler.configuration_directory = str(folder)
        settings.filesystem_handler.state_file = str(folder / "state")
        program = self._run(name, "fleetspeak-client", "--config", str(self._write(f"{name}/client.config", settings)))
        self.clients[name] = program.wait_for("established as client ([0-9a-f]{16})")

    def check(self) -> None:
        """Raises ProgramFailed if one of the programs has ended."""
        for program in self._programs:
            program.check()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._interruption.hold()
        for program in self._programs:
            program.ask_to_stop()
        for program in self._programs:
            program.stop()
        self._folder.cleanup()

    def _run(self, name: str, plugin: str, *options: str) -> Program:
        with self._interruption.held():  # or a program could run that nobody knows of
            program = Program(name, [*_TWISTD, plugin, *options], self.path / f"{name}.log")
            self._programs.append(program)
        return program

    def _write(self, name: str, message: ProtobufMessage) -> Path:
        path = self.path
        for part in Path(name).parts:
            path.mkdir(mode=0o700, exist_ok=True)
            path /= part
        # Whatever the umask is: the client does not believe a file that a group may write.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text_format.MessageToString(message))
        return path


def _server_services(addresses: Mapping[str, str]) -> server.ServerConfig:
    config = server.ServerConfig()
    for name, address in addresses.items():
        service = config.services.add(name=name, factory="GRPC")
        service.config.Pack(grpcservice.Config(target=address, insecure=True))
    return config


def _client_services() -> list[system.ClientServiceConfig]:
    hello = system.ClientServiceConfig(name="hello", factory="Daemon")
    hello.config.Pack(daemon_config.Config(argv=[sys.executable, "-m", "fleetspeak.cli.demo.hello"]))
    commands = []
    for name in ("ls", "cat"):
        command = system.ClientServiceConfig(name=name, factory="Stdin")
        command.config.Pack(stdin_config.Config(cmd=_find(name)))
        commands.append(command)
    return [hello, *commands]


def _find(command: str) -> str:
    return next(path for folder in ("/bin", "/usr/bin") if os.path.exists(path := f"{folder}/{command}"))


def _port(address: str) -> str:
    return address.strip().rpartition(":")[2]
