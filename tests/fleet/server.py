"""Our server as its own process, in the small set-up: ``twistd fleetspeak-server`` on an SQLite database."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import grpc

from fleetspeak import rpc
from fleetspeak.testing.wireclient import Connection, Identity
from tests.programs import Program, free_port

TWISTD = Path(sys.executable).parent / "twistd"


class SmallServer:
    """One server and its folder.  Stopping, killing and starting it keep ports and data."""

    def __init__(self, folder: Path, services: str) -> None:
        """@param services: text of its services file."""
        self.https_port, self._admin_port = free_port(), free_port()
        self.folder = folder
        self.database = folder / "fleetspeak.sqlite"
        (folder / "services.textproto").write_text(services)

    def start(self) -> Program:
        """Start it and wait until it serves."""
        self.program = Program("server", self.command_line(), folder=self.folder)
        self.program.wait_for_line("Fleetspeak server started")
        return self.program

    def command_line(self) -> list[str | Path]:
        arguments = [
            f"--https-addr=127.0.0.1:{self.https_port}",
            f"--admin-addr=127.0.0.1:{self._admin_port}",
            f"--database-path={self.database}",
            "--services-config=services.textproto",
        ]
        return [TWISTD, "-n", "--pidfile=", "fleetspeak-server", *arguments]

    def stop(self) -> None:
        """End it gently; it must take that as a success."""
        status = self.program.terminate()
        assert status == 0, f"the server ended with {status}"

    def clean_up(self) -> None:
        if hasattr(self, "program"):
            self.program.make_sure_it_ended()

    def connect(self, identity: Identity | None) -> Connection:
        """A connection as that client; it trusts the authority that the server made for itself."""
        trusted = (self.folder / "fleetspeak-ca.pem").read_text()
        return Connection(("localhost", self.https_port), trusted, identity)

    @property
    def admin_address(self) -> str:
        """Of its admin interface."""
        return f"127.0.0.1:{self._admin_port}"

    def admin_channel(self) -> grpc.Channel:
        """A channel to its admin interface that is quick to find it again after a restart."""
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        return grpc.insecure_channel(self.admin_address, options=options)

    def admin(self) -> rpc.admin.AdminStub:
        return rpc.admin.AdminStub(self.admin_channel())

    def query(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Look into its database."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(statement, parameters).fetchall()

    def let_time_pass(self) -> None:
        """While it is down: make due what waits for another try, as if the quarter of an hour had passed."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("UPDATE pending_messages SET scheduled_time = 0")
