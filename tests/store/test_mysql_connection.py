"""What goes over the wire to a MySQL server: encrypted when it has to be, and never the password itself."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config import owncertificate
from fleetspeak.errors import ConfigError
from fleetspeak.store.sql.mysql import MysqlDatabase
from fleetspeak.wire import dsn
from tests.mariadb import MariaDB


class TlsTests(SynchronousTestCase):
    """The modes of the DSN, with a server that has a certificate of its own authority."""

    server: MariaDB

    @classmethod
    def setUpClass(cls) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fleetspeak-mysql-tls-"))
        cls.paths = owncertificate.Paths.beside(folder / "x")
        owncertificate.read_or_make(cls.paths, ["127.0.0.1"], time.time())
        cls.server = MariaDB([f"--ssl-cert={cls.paths.server}", f"--ssl-key={cls.paths.server_key}"])
        cls.addClassCleanup(cls.server.stop)

    def cipher(self, mode: str) -> object:
        """With what a connection is encrypted."""
        database = self.server.new_database()
        source = dsn.parse(database.dsn_by_tcp() + f"?tls={mode}")
        store = MysqlDatabase(source)
        store.open()
        [(_, cipher)] = store.rows("SHOW STATUS LIKE 'Ssl_cipher'")
        store.close()
        return cipher

    def test_modes_that_do_not_verify(self) -> None:
        self.assertTrue(self.cipher("skip-verify"))
        self.assertTrue(self.cipher("preferred"))
        self.assertFalse(self.cipher("false"))

    def test_the_authority_is_verified(self) -> None:
        with self.assertRaises(ConfigError) as raised:
            self.cipher("true")
        self.assertIn("certificate verify failed", str(raised.exception))

    def test_a_trusted_authority(self) -> None:
        with mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(self.paths.ca)}):
            self.assertTrue(self.cipher("true"))


class GreedyServer:
    """Asks for the password itself, and keeps whatever it is sent."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.received = b""
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(10)
        capabilities = 1 << 0 | 1 << 3 | 1 << 9 | 1 << 15 | 1 << 19  # 4.1, with plug-ins, without TLS
        greeting = (
            b"\x0a8.0.36\0"
            + struct.pack("<I", 1)
            + b"saltsalt\0"
            + struct.pack("<H", capabilities & 0xFFFF)
            + b"\x2d\x02\x00"
            + struct.pack("<H", capabilities >> 16)
            + bytes([21])
            + bytes(10)
            + b"saltsaltsalt\0"
            + b"mysql_native_password\0"
        )
        self._send(connection, 0, greeting)
        with contextlib.suppress(OSError):
            self.received += connection.recv(65536)
            self._send(connection, 2, b"\xfemysql_clear_password\0")
            while data := connection.recv(65536):
                self.received += data
        connection.close()
        self._listener.close()

    def _send(self, connection: socket.socket, number: int, packet: bytes) -> None:
        connection.sendall(struct.pack("<I", len(packet))[:3] + bytes([number]) + packet)


class CleartextTests(SynchronousTestCase):
    def open(self, parameters: str) -> tuple[GreedyServer, str]:
        server = GreedyServer()
        source = dsn.parse(f"fs:SECRET@tcp(127.0.0.1:{server.port})/x?timeout=5s&readTimeout=1s&{parameters}")
        with self.assertRaises(ConfigError) as raised:
            MysqlDatabase(source, read_only=True).open()
        server.thread.join(10)
        return server, str(raised.exception)

    def test_a_server_that_asks_for_the_password_does_not_get_it(self) -> None:
        server, text = self.open("")
        self.assertNotIn(b"SECRET", server.received)
        self.assertIn("allowCleartextPasswords=true", text)

    def test_unless_it_is_allowed(self) -> None:
        server, _ = self.open("allowCleartextPasswords=true")
        self.assertIn(b"SECRET\0", server.received)
