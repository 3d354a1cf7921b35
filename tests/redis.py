"""A private Redis server on a Unix socket and a port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.programs import Program, eventually, free_port, require_on_path

REMEDY = "install the Debian package redis-server"


class Redis:
    """The server process; ports and socket stay."""

    def __init__(self, *options: str) -> None:
        self._redis = require_on_path("redis-server", REMEDY)
        self._folder = Path(tempfile.mkdtemp(prefix="fleetspeak-redis-"))
        self.socket = self._folder / "socket"
        self.port = free_port()
        self._options = options
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        argv = [
            self._redis,
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--unixsocket",
            self.socket,
            "--save",
            "",
            *self._options,
        ]
        self._program = Program("redis", argv, folder=self._folder)
        eventually(lambda: self.ask(b"PING"), "Redis answers")

    def ask(self, line: bytes) -> bytes:
        """Send an inline command on a connection of its own; gives the beginning of the answer."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as connection:
            connection.sendall(line + b"\r\n")
            return connection.recv(1000)
        return b""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._program.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._program.kill()

    def clean_up(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
