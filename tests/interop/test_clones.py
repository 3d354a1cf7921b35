"""Machines that were copied with their client's state (client-tests 128): one client, until it is told to be many."""

from __future__ import annotations

import shutil
from unittest import TestCase

from fleetspeak.pb import admin
from tests import mariadb
from tests.programs import PATIENCE, eventually

from .fleet import OURS, POLLING, UPSTREAM, Kind
from .frr import FrrFleet

CLONES = 5


class ClonesTests(TestCase):
    def clones(self, server_kind: Kind, database: mariadb.Database | None = None) -> None:
        fleet = FrrFleet(server_kind, database)
        self.addCleanup(fleet.clean_up)
        fleet.add_clients(OURS, POLLING, CLONES)
        fleet.server.start()
        first, *others = fleet.clients
        fleet.start(first)
        original = first.client_id
        eventually(lambda: fleet.master.clients() == {original}, "the first of them enrols")
        for clone in others:
            shutil.copy(first.folder / "state", clone.folder / "state")
            fleet.start(clone)
        eventually(lambda: fleet.contacts(original) >= 20, "twenty contacts", 20)
        self.assertEqual(fleet.master.clients(), {original})

        fleet.admin.BlacklistClient(admin.BlacklistClientRequest(client_id=original), timeout=PATIENCE)
        if server_kind is UPSTREAM:
            # It remembers for 45 s what it knew of a client.
            fleet.server.stop()
            fleet.server.start()
        eventually(lambda: len(fleet.master.clients()) == 1 + CLONES, "each of them becomes another client", 20)
        identities = {client.client_id for client in fleet.clients}
        self.assertEqual(fleet.master.clients(), {original} | identities)
        for client in fleet.clients:
            self.assertTrue(client.program.running)

    def test_item_128_on_our_server(self) -> None:
        self.clones(OURS)

    def test_items_39_128_on_our_server_with_mariadb(self) -> None:
        """datastore 39: the whole system on each store."""
        database = mariadb.the_server().new_database()
        self.addCleanup(database.drop)
        self.clones(OURS, database)

    def test_item_128_on_the_upstream_server(self) -> None:
        self.clones(UPSTREAM)
