"""Run with: trial tests"""

import shutil
import socket
import tempfile
from pathlib import Path

from fleetspeak_neighbours.notifier import NeighboursFactory
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError
from fleetspeak.ids import parse_client_id
from fleetspeak.interfaces import IListener, INotifier, INotifierFactory

CLIENT = parse_client_id("0102030405060708")


class Server:
    """What a server does with the pair."""

    def __init__(self, case, folder):
        self.notifier, self.listener = NeighboursFactory().make(str(folder), None, reactor)
        self.heard, self.told = Deferred(), Deferred()
        self.listener.start(self.heard.callback, lambda: self.told.callback(None))
        case.addCleanup(self.stop)

    async def stop(self):
        await self.listener.stop()
        self.notifier.stop()


class NeighboursTests(TestCase):
    timeout = 30

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())  # not self.mktemp(): that is too long for a socket
        self.addCleanup(shutil.rmtree, self.folder)
        self.one, self.other = Server(self, self.folder), Server(self, self.folder)

    def test_interfaces(self):
        verifyObject(INotifierFactory, NeighboursFactory())
        verifyObject(INotifier, self.one.notifier)
        verifyObject(IListener, self.one.listener)

    async def test_a_notification(self):
        self.one.notifier.notify(self.other.listener.address, CLIENT)
        self.assertEqual(await self.other.heard, CLIENT)

    async def test_one_to_itself(self):
        self.one.notifier.notify(self.one.listener.address, CLIENT)
        self.assertEqual(await self.one.heard, CLIENT)

    async def test_broadcasts(self):
        self.one.notifier.broadcasts_changed()
        await self.other.told
        self.assertFalse(self.one.told.called)

    async def test_servers_that_are_gone_or_of_another_kind(self):
        crashed = self.folder / "neighbour-0000000000000000"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left_behind:
            left_behind.bind(str(crashed))
        for address in (crashed.name, "neighbour-1111111111111111", "go.example:8081", "../../etc/passwd", ""):
            self.one.notifier.notify(address, CLIENT)
        self.one.notifier.broadcasts_changed()
        await self.other.told
        self.assertFalse(crashed.exists())

    async def test_nonsense_is_passed_over(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            for datagram in (b"", b"x", b"x" * 4096, CLIENT):
                stranger.sendto(datagram, str(self.folder / self.one.listener.address))
        self.assertEqual(await self.one.heard, CLIENT)

    async def test_it_leaves_no_file(self):
        await self.one.listener.stop()
        self.assertFalse((self.folder / self.one.listener.address).exists())
        self.one.notifier.notify(self.other.listener.address, CLIENT)  # too late, and no error

    def test_a_folder_that_will_not_do(self):
        self.folder.chmod(0o755)
        for folder, said in ((self.folder, "chmod 700"), ("/no/such", "takes a folder"), ("", "takes a folder")):
            error = self.assertRaises(ConfigError, NeighboursFactory().make, str(folder), None, reactor)
            self.assertIn(said, str(error))
