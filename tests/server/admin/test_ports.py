"""Unix sockets: whose they are, and what is in their place already."""

from __future__ import annotations

import grp
import os
import socket
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fleetspeak.config.adminaccess import AdminAccess, UnixSocket
from fleetspeak.core.adminaccess import Role
from fleetspeak.errors import ConfigError
from fleetspeak.server.admin.server import AdminServer


class SocketTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="fs-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "admin.sock"

    def server(self, group: str = "") -> AdminServer:
        access = AdminAccess(unix_socket=UnixSocket(self.path, Role.ADMIN, group))
        return AdminServer([], "127.0.0.1", 0, reactor, access=access)

    def start(self, group: str = "") -> AdminServer:
        server = self.server(group)
        server.start()
        self.addCleanup(server.stop)
        return server

    def refused(self, group: str = "") -> str:
        with self.assertRaises(ConfigError) as caught:
            self.server(group).start()
        return str(caught.exception)

    def test_it_is_for_its_owner_alone(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.start()
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(os.umask(0), 0, "the umask is as before")

    def test_or_for_a_group(self) -> None:
        group = grp.getgrgid(os.getegid())
        self.start(group.gr_name)
        found = self.path.stat()
        self.assertEqual((found.st_mode & 0o777, found.st_gid), (0o660, group.gr_gid))

    def test_a_group_that_is_not_there(self) -> None:
        self.assertIn("there is no group of-nobody", self.refused("of-nobody"))

    def test_one_that_was_left_behind_is_replaced(self) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
        self.start()

    def test_one_that_is_used_is_not(self) -> None:
        self.start()
        self.assertIn(f"another program listens on {self.path}", self.refused())

    def test_what_is_no_socket_stays(self) -> None:
        self.path.write_text("precious")
        self.assertIn("is there already, and no socket", self.refused())
        self.assertEqual(self.path.read_text(), "precious")

    def test_no_folder(self) -> None:
        self.path = self.path.parent / "gone" / "admin.sock"
        self.assertIn("does its folder exist", self.refused())
