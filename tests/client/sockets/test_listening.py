"""The socket's file, and who is accepted (client-tests.md L 115, 118)."""

from __future__ import annotations

import errno
import os
import socket as sockets
import stat
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.client.services.socket import SocketFactory
from fleetspeak.client.sockets import listening
from fleetspeak.client.sockets.listening import Listener, PeerCredentials
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IClientService, IClientServiceFactory
from fleetspeak.pb import daemon_config, socket_config
from fleetspeak.testing.clientside import RecordingContext
from tests.client.sockets.case import SocketCase


class _Reactor(Clock):
    """Notes what it should watch."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.watched.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.watched.discard(reader)


class _Broken:
    """A listening socket that has no descriptors left for a connection."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def accept(self) -> None:
        raise OSError(self.number, os.strerror(self.number))

    def close(self) -> None:
        self.closed = True


class Accepting(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = _Reactor()
        self.accepted: list[sockets.socket] = []

    def listener(self, listening_socket: Any) -> Listener:
        listener = Listener(self.reactor, listening_socket, self.accepted.append)
        listener.accept_one()
        return listener

    def test_without_descriptors_it_tries_again_in_a_second(self) -> None:
        listener = self.listener(_Broken(errno.EMFILE))
        with capturedLogs() as logs:
            listener.doRead()
        self.assertEqual((set(), 1), (self.reactor.watched, len(logs)))
        self.reactor.advance(1)
        self.assertEqual({listener}, self.reactor.watched)
        listener.doRead()
        listener.close()
        self.assertEqual(([], set()), (self.reactor.getDelayedCalls(), self.reactor.watched))
        listener.accept_one()
        self.assertEqual(set(), self.reactor.watched)

    def test_a_connection_that_is_gone_again_is_no_matter(self) -> None:
        for number in (errno.EAGAIN, errno.ECONNABORTED):
            listener = self.listener(_Broken(number))
            listener.doRead()
            self.assertIn(listener, self.reactor.watched)
            self.assertEqual([], self.reactor.getDelayedCalls())

    def test_the_kernel_tells_who_has_connected(self) -> None:
        here, there = sockets.socketpair()
        with here, there:
            self.assertEqual(PeerCredentials(os.getpid(), os.geteuid()), listening.credentials_of(here))


class Files(SocketCase):
    def test_item_118_the_socket_is_for_us_alone(self) -> None:
        self.path = str(self.folder / "a" / "b" / "socket")
        self.service()
        self.assertEqual(stat.S_IFSOCK | 0o600, os.lstat(self.path).st_mode)
        for directory in (self.folder / "a", self.folder / "a" / "b"):
            self.assertEqual(stat.S_IFDIR | 0o700, os.lstat(directory).st_mode)
        self.assertFalse(os.path.exists(self.path + ".tmp"))

    def test_item_118_in_a_directory_that_others_can_read_it_is_not_installed(self) -> None:
        (self.folder / "made").mkdir(0o755)
        (self.folder / "made").chmod(0o755)
        error = self.assertRaises(ConfigError, self.make().start)
        self.assertIn("drwxr-xr-x, expected drwx------", str(error))
        self.assertEqual([], os.listdir(self.folder / "made"))

    def test_nor_behind_a_link(self) -> None:
        (self.folder / "real").mkdir(0o700)
        (self.folder / "made").symlink_to("real")
        self.assertIn("lrwxrwxrwx", str(self.assertRaises(ConfigError, self.make().start)))

    def test_an_old_socket_is_replaced(self) -> None:
        (self.folder / "made").mkdir(0o700)
        for name in (self.path, self.path + ".tmp"):
            with sockets.socket(sockets.AF_UNIX) as old:
                old.bind(name)
        self.service()
        self.assertEqual(["socket"], os.listdir(self.folder / "made"))

    def test_anything_else_is_not(self) -> None:
        (self.folder / "made").mkdir(0o700)
        Path(self.path).write_text("important")
        self.assertIn("is in the way", str(self.assertRaises(ConfigError, self.make().start)))
        self.assertEqual("important", Path(self.path).read_text())


class Configuration(SynchronousTestCase):
    def refused(self, path: str) -> str:
        config = socket_config.Config(api_proxy_path=path)
        return str(self.assertRaises(ConfigError, SocketFactory().make, config, RecordingContext()))

    def test_it_is_what_it_says(self) -> None:
        verifyObject(IClientServiceFactory, SocketFactory())
        made = SocketFactory().make(socket_config.Config(api_proxy_path="/x/y"), RecordingContext())
        verifyObject(IClientService, made)

    def test_a_path_is_required(self) -> None:
        self.assertIn("api_proxy_path required", self.refused(""))
        self.assertRaises(ConfigError, SocketFactory().make, None, RecordingContext())
        self.assertRaises(ConfigError, SocketFactory().make, daemon_config.Config(), RecordingContext())

    def test_item_115_a_path_that_is_too_long(self) -> None:
        path = (
            "/tmp/This is a really really long path that definitely will not fit in the sockaddr_un struct on most "
            "unix platforms"
        )
        self.assertEqual(116, len(path))
        self.assertEqual(
            f"socket path is too long (120 chars) - max allowed length is 107: {path}.tmp", self.refused(path)
        )
        SocketFactory().make(socket_config.Config(api_proxy_path="/" + "x" * 102), RecordingContext())
        self.assertIn("(108 chars)", self.refused("/" + "x" * 103))
        self.assertIn("(109 chars)", self.refused("/" + "é" * 52))

    def test_a_relative_path(self) -> None:
        self.assertIn("must be absolute", self.refused("run/socket"))
