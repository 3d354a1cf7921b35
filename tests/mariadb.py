"""A private MariaDB server: temporary folder, Unix socket, a TCP port of its own on 127.0.0.1.

`the_server` is started once, on first use, and ends with the test process.  Every user takes a fresh database.
"""

from __future__ import annotations

import atexit
import functools
import getpass
import itertools
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pymysql

from tests.programs import Program, require_on_path

REMEDY = "install the Debian packages mariadb-server-core and mariadb-client-core"


class Database:
    """One empty database."""

    def __init__(self, server: MariaDB, name: str, options: str = "") -> None:
        self.server = server
        self.name = name
        server.query(None, f"CREATE DATABASE {name} {options}")

    @property
    def dsn(self) -> str:
        """Where the Go MySQL driver finds it."""
        return f"root@unix({self.server.socket})/{self.name}"

    def dsn_by_tcp(self, port: int = 0) -> str:
        """Likewise, by its port, or by that of something in between."""
        return f"root@tcp(127.0.0.1:{port or self.server.port})/{self.name}"

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement; returns its rows."""
        return self.server.query(self.name, statement)

    def drop(self) -> None:
        self.server.query(None, f"DROP DATABASE {self.name}")


class MariaDB:
    """The server process.  Unless told otherwise it never waits for the disk: its data is worth nothing afterwards."""

    def __init__(self, options: Sequence[str] = ("--innodb-flush-log-at-trx-commit=0",)) -> None:
        self._mariadbd = require_on_path("mariadbd", REMEDY)
        install = require_on_path("mariadb-install-db", REMEDY)
        self._folder = Path(tempfile.mkdtemp(prefix="fleetspeak-mariadb-"))
        atexit.register(self.stop)
        self._numbers = itertools.count()
        self._options = options
        self.socket = self._folder / "socket"
        self.port = _free_port()
        # A folder for temporary tables of its own: a server that starts removes those of all others that it finds.
        temporary = self._folder / "temporary"
        temporary.mkdir()
        self._common = [
            "--no-defaults",
            f"--datadir={self._folder / 'data'}",
            f"--tmpdir={temporary}",
            f"--user={getpass.getuser()}",
        ]
        subprocess.run(
            [install, *self._common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.start()

    def start(self) -> None:
        """Start it, again after `kill`."""
        self._program = Program(
            "mariadbd",
            [
                self._mariadbd,
                *self._common,
                f"--socket={self.socket}",
                "--bind-address=127.0.0.1",
                f"--port={self.port}",
                "--skip-log-bin",
                "--innodb-buffer-pool-size=32M",
                "--max-allowed-packet=64M",
                *self._options,
            ],
        )
        self._program.wait_for_line("ready for connections")

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._program.pid

    def kill(self) -> None:
        """End it at once, as if the machine had lost its power."""
        self._program.kill()

    def new_database(self, options: str = "") -> Database:
        return Database(self, f"fleetspeak_{next(self._numbers)}", options)

    def query(self, database: str | None, statement: str) -> list[tuple[object, ...]]:
        connection = pymysql.connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def stop(self) -> None:
        if hasattr(self, "_program"):
            self._program.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@functools.cache
def the_server() -> MariaDB:
    """The one server of this test process."""
    return MariaDB()
