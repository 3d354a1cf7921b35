"""A client of either kind that has a stream is blacklisted by upstream's fleetspeak-admin (server-core 8 and 14)."""

from __future__ import annotations

import subprocess
from unittest import TestCase

from fleetspeak import ids
from tests.programs import eventually

from .fleet import OURS, STREAMING, UPSTREAM, Kind
from .frr import FrrFleet


class StreamingClientsTests(TestCase):
    def rekey(self, kind: Kind) -> None:
        fleet = FrrFleet(OURS)
        self.addCleanup(fleet.clean_up)
        fleet.add_clients(kind, STREAMING, 1)
        fleet.server.start()
        [client] = fleet.clients
        fleet.start(client)
        original = client.client_id
        eventually(lambda: fleet.master.clients() == {original}, "it enrols")
        tool = [UPSTREAM.program("fleetspeak-admin"), f"-admin_addr={fleet.deployment.admin_address}"]
        subprocess.run([*tool, "blacklistclients", ids.show(original)], check=True, timeout=30)
        # Its stream would last for ten minutes.
        eventually(lambda: len(fleet.master.clients()) == 2, "it comes back as another client", 30)
        self.assertTrue(client.program.running)

    def test_upstreams_client(self) -> None:
        self.rekey(UPSTREAM)

    def test_our_client(self) -> None:
        self.rekey(OURS)
