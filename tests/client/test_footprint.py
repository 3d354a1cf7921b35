"""What a client loads: nothing of the server, and nothing that only the server has installed."""

from __future__ import annotations

import subprocess
import sys

from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

import fleetspeak.plugins
from fleetspeak.interfaces import IClientServiceFactory

PROGRAM = """
import sys
from fleetspeak.client import tap
from fleetspeak.client.assembly import service_factories
service_factories()
foreign = ("grpc", "fleetspeak.server", "fleetspeak.store", "pymysql", "fleetspeak.client.comms.h2")
print(*(name for name in sys.modules if name.startswith(foreign)))
"""


class FootprintTests(SynchronousTestCase):
    def setUp(self) -> None:
        # As an installation leaves it: without the cache of plug-ins, looking for them loads them all, once.
        list(getPlugins(IClientServiceFactory, fleetspeak.plugins))

    def test_the_client_needs_neither_grpc_nor_the_server(self) -> None:
        loaded = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        self.assertEqual((loaded.stdout.strip(), loaded.stderr), ("", ""))
