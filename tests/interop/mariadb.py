"""A private MariaDB server for the upstream server: temporary folder, Unix socket, no TCP port.

It is started once, on first use, and ends with the test process.  Every user takes a fresh database.
"""

from __future__ import annotations

import atexit
import functools
import getpass
import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pymysql

from tests.programs import Program, require_on_path

REMEDY = "install the Debian packages mariadb-server-core and mariadb-client-core"


class Database:
    """One empty database."""

    def __init__(self, server: MariaDB, name: str) -> None:
        self._server = server
        self.name = name
        server.query(None, f"CREATE DATABASE {name}")

    @property
    def dsn(self) -> str:
        """Where the Go MySQL driver finds it."""
        return f"root@unix({self._server.socket})/{self.name}"

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement; returns its rows."""
        return self._server.query(self.name, statement)

    def drop(self) -> None:
        self._server.query(None, f"DROP DATABASE {self.name}")


class MariaDB:
    """The server process.  Its data is worth nothing after the test, so it never waits for the disk."""

    def __init__(self) -> None:
        mariadbd = require_on_path("mariadbd", REMEDY)
        install = require_on_path("mariadb-install-db", REMEDY)
        self._folder = Path(tempfile.mkdtemp(prefix="fleetspeak-mariadb-"))
        atexit.register(self.stop)
        self._numbers = itertools.count()
        self.socket = self._folder / "socket"
        common = ["--no-defaults", f"--datadir={self._folder / 'data'}", f"--user={getpass.getuser()}"]
        subprocess.run(
            [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self._program = Program(
            "mariadbd",
            [
                mariadbd,
                *common,
                f"--socket={self.socket}",
                "--skip-networking",
                "--skip-log-bin",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-buffer-pool-size=32M",
                "--max-allowed-packet=64M",
            ],
        )
        self._program.wait_for_line("ready for connections")

    def new_database(self) -> Database:
        return Database(self, f"fleetspeak_{next(self._numbers)}")

    def query(self, database: str | None, statement: str) -> list[tuple[object, ...]]:
        connection = pymysql.connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def stop(self) -> None:
        if hasattr(self, "_program"):
            self._program.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@functools.cache
def the_server() -> MariaDB:
    """The one server of this test process."""
    return MariaDB()
