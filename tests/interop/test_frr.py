"""Much traffic at once between a server and several clients (client-tests 126), in every combination."""

from __future__ import annotations

from unittest import TestCase

from fleetspeak.pb import frr
from tests import mariadb
from tests.programs import eventually

from .fleet import OURS, POLLING, STREAMING, UPSTREAM, Client, Kind, Transport
from .frr import SERVICE, FrrFleet

CLIENTS = 5
FILE = b"This is a test file. It has 42 characters."

TRAFFIC = frr.TrafficRequestData(
    master_id=1, request_id=1, num_messages=20, message_size=1024, message_delay_ms=20, jitter=1.0
)


class FrrCase(TestCase):
    database: mariadb.Database | None = None

    def begin(self, server_kind: Kind, client_kind: Kind, *transports: Transport) -> None:
        """A server that runs, and clients that do not, five for each transport."""
        self.fleet = FrrFleet(server_kind, self.database)
        self.addCleanup(self.fleet.clean_up)
        self.expected = CLIENTS * len(transports)
        for transport in transports:
            self.fleet.add_clients(client_kind, transport, CLIENTS)
        self.fleet.server.start()

    def assert_complete(self) -> None:
        """All clients have answered, each answer came once, and none is missing."""
        self.fleet.await_completion(TRAFFIC.request_id, self.expected)
        responses = self.fleet.responses(TRAFFIC.request_id)
        self.assertEqual(set(responses.values()), {1}, "each exactly once")
        for clients in (self.fleet.clients[first : first + CLIENTS] for first in range(0, self.expected, CLIENTS)):
            ids = {client.client_id for client in clients}
            count = sum(client_id in ids for client_id, _ in responses)
            self.assertTrue(100 <= count <= 200, count)

    def assert_polled(self, clients: list[Client]) -> None:
        self.assertGreaterEqual(sum(self.fleet.contacts(client.client_id) for client in clients), 5)


class OurServerCase(FrrCase):
    def traffic(self, client_kind: Kind, transport: Transport) -> None:
        self.begin(OURS, client_kind, transport)
        self.fleet.start_clients()
        for client_id in self.fleet.await_enrolment():
            self.fleet.unicast("TrafficRequest", TRAFFIC, client_id)
        self.assert_complete()

    def broadcast(self, client_kind: Kind, *transports: Transport) -> None:
        """To clients that are connected, and to those that come later; not one more than the limit."""
        self.begin(OURS, client_kind, *transports)
        late, early = self.fleet.clients[:2], self.fleet.clients[2:]
        for client in early:
            self.fleet.start(client)
        eventually(lambda: len(self.fleet.master.clients()) >= len(early), "clients enrol")
        self.fleet.broadcast("TrafficRequest", TRAFFIC, self.expected)
        for client in late:
            self.fleet.start(client)
        self.assert_complete()


class OurServerTests(OurServerCase):
    def test_item_126_broadcasts_to_our_clients(self) -> None:
        self.broadcast(OURS, POLLING, STREAMING)

    def test_item_126_broadcasts_to_upstream_clients(self) -> None:
        self.broadcast(UPSTREAM, POLLING, STREAMING)

    def test_item_126_our_polling_clients(self) -> None:
        self.traffic(OURS, POLLING)
        self.assert_polled(self.fleet.clients)

    def test_item_126_our_streaming_clients(self) -> None:
        self.traffic(OURS, STREAMING)

    def test_item_126_upstream_polling_clients(self) -> None:
        self.traffic(UPSTREAM, POLLING)

    def test_item_126_upstream_streaming_clients(self) -> None:
        self.traffic(UPSTREAM, STREAMING)


class OurServerOnMariaDbTests(OurServerCase):
    """datastore 39: the whole system on each store."""

    def setUp(self) -> None:
        self.database = mariadb.the_server().new_database()
        self.addCleanup(self.database.drop)

    def test_items_39_126_broadcasts_to_our_clients(self) -> None:
        self.broadcast(OURS, POLLING, STREAMING)


class UpstreamServerTests(FrrCase):
    """With its broadcasts.  It looks for them when a client that it has not seen lately makes contact."""

    def test_item_126_broadcasts_of_the_upstream_server_to_our_clients(self) -> None:
        self.begin(UPSTREAM, OURS, POLLING, STREAMING)
        self.fleet.broadcast("TrafficRequest", TRAFFIC, self.expected)
        self.fleet.start_clients()
        self.assert_complete()
        self.fleet.store_file("the file", FILE)
        self.fleet.broadcast("FileRequest", frr.FileRequestData(master_id=1, name="the file"), self.expected)
        self.fleet.server.stop()
        self.fleet.server.start()
        self.fleet.master.wait_until(lambda: len(self.fleet.fetched()) == self.expected, "all report the file")
        self.assertEqual(set(self.fleet.fetched().values()), {42})
        sent = sum(self.fleet.server.messages_to(client.client_id, SERVICE) for client in self.fleet.clients)
        self.assertTrue(self.expected <= sent <= 2 * self.expected, sent)
        self.assert_polled(self.fleet.clients[:CLIENTS])
