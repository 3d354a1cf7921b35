"""Our server and upstream's on one MariaDB database: one after the other, and at the same time (issue 4)."""

from __future__ import annotations

import secrets

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak import rpc
from fleetspeak.pb import admin, components
from tests.mariadb import the_server
from tests.programs import eventually, free_port

from .conversation import Conversation
from .fleet import OURS, POLLING, UPSTREAM, Client, Fleet, Kind, Server, greeter, hello
from .operators import Operator


class SharedDatabaseCase(Conversation):
    @classmethod
    def setUpClass(cls) -> None:
        """Each test has a fleet of its own."""

    def setUp(self) -> None:
        self.database = the_server().new_database()
        self.addCleanup(self.database.drop)
        self.fleet = Fleet(UPSTREAM, (UPSTREAM,))  # type: ignore[misc]
        self.addCleanup(self.fleet.clean_up)
        self.fleet.start_operators()
        self.operator = self.fleet.operator
        self.servers = {
            kind: self.fleet.server(kind, f"{kind.value}-server", self.database) for kind in (UPSTREAM, OURS)
        }

    def leave_a_message(self, operator: Operator, client: Client, text: str) -> None:
        operator.send(greeter(UPSTREAM), client.client_id, hello(UPSTREAM), StringValue(value=text))


class TakeOverTests(SharedDatabaseCase):
    """The database of one server is opened by the other, and opened again by the first."""

    def test_from_upstream_to_ours_and_back(self) -> None:
        client = self.fleet.client(OURS, "machine", POLLING)
        self.serve(UPSTREAM)
        client.start()
        self.await_enrolment(client)
        self.assert_greets(client, "at first")
        self.assert_nothing_pending(self.servers[UPSTREAM], client)
        client.stop()
        for old, new in ((UPSTREAM, OURS), (OURS, UPSTREAM)):
            self.leave_a_message(self.operator, client, f"left with {old.value}")
            eventually(lambda: self.operator.pending([client.client_id]) == 1, "the message waits")
            self.servers[old].stop()
            self.serve(new)
            self.assertEqual(self.operator.clients(), {client.client_id})
            self.assertEqual(self.operator.pending([client.client_id]), 1)
            client.start()
            self.operator.wait_for_text(f"Hello left with {old.value}!")
            self.assert_greets(client, f"at {new.value}")
            self.assert_nothing_pending(self.servers[new], client)
            client.stop()

    def serve(self, kind: Kind) -> None:
        self.servers[kind].start()


class SideBySideTests(SharedDatabaseCase):
    """Both at the same time, each with its own address; clients know both."""

    def setUp(self) -> None:
        super().setUp()
        self.https_port, admin_port = free_port(), free_port()
        self.our_admin_address = f"127.0.0.1:{admin_port}"

        def elsewhere(config: components.Config) -> None:
            config.https_config.listen_address = f"127.0.0.1:{self.https_port}"
            config.admin_config.listen_address = self.our_admin_address

        self.servers[OURS].reconfigure(elsewhere)
        # It only sends: both servers hand what clients say to the first operator.
        nowhere = {greeter(UPSTREAM): f"127.0.0.1:{free_port()}"}
        other = Operator("operator of ours", OURS.python(), self.our_admin_address, nowhere)
        self.addCleanup(other.stop)
        self.operators = {UPSTREAM: self.operator, OURS: other}

    def roaming(self, kind: Kind) -> Client:
        """A client that knows both servers."""
        client = self.fleet.client(kind, f"{kind.value}-roaming", POLLING)
        configuration = client.folder / "client.textproto"
        configuration.write_text(f'{configuration.read_text()} server: "localhost:{self.https_port}"')
        return client

    def test_both_at_once(self) -> None:
        """Messages inserted at either reach every client, wherever it is, and when one of them ends it moves."""
        for server in self.servers.values():
            server.start()
        clients = [self.roaming(kind) for kind in (UPSTREAM, OURS)]
        for client in clients:
            client.start()
        for client in clients:
            self.await_enrolment(client)
        self.assert_reached(clients, "with both")
        self.servers[UPSTREAM].stop()
        del self.operators[UPSTREAM]
        self.assert_reached(clients, "with ours alone")
        self.servers[UPSTREAM].start()
        self.operators[UPSTREAM] = self.operator
        self.assert_reached(clients, "with both again")
        self.servers[OURS].stop()
        del self.operators[OURS]
        self.assert_reached(clients, "with upstream's alone")
        for client in clients:
            self.assert_all_processed(self.servers[UPSTREAM], client)
            client.stop()

    def test_broadcasts_of_either_admin_api(self) -> None:
        """What is created at upstream's is sent by ours; what is created at ours upstream's lists and disables."""
        self.servers[OURS].start()
        self.servers[UPSTREAM].start()
        client = self.roaming(OURS)
        client.start()
        self.await_enrolment(client)
        theirs, ours = (self.admin_of(config) for config in (UPSTREAM, OURS))
        self.broadcast(theirs, "from upstream's")
        self.servers[UPSTREAM].stop()  # which would send it when it next looks for clients that it has not seen lately
        self.operator.wait_for_text("Hello from upstream's!", 60)
        self.servers[UPSTREAM].start()
        self.assertEqual(self.broadcast(ours, "from ours", limit=1), self.active(theirs))
        self.operator.wait_for_text("Hello from ours!", 60)
        eventually(lambda: not self.active(theirs), "what was sent is accounted for", 60)
        last = self.broadcast(ours, "", limit=3, label="nobody")
        self.assertEqual(self.active(theirs), last)
        theirs.DisableBroadcasts(admin.DisableBroadcastsRequest(broadcast_ids=last), timeout=30)
        self.assertEqual(self.active(ours), [])

    def admin_of(self, kind: Kind) -> rpc.admin.AdminStub:
        address = self.fleet.deployment.admin_address if kind is UPSTREAM else self.our_admin_address
        channel = grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 500)])
        self.addCleanup(channel.close)
        return rpc.admin.AdminStub(channel)

    def broadcast(self, stub: rpc.admin.AdminStub, text: str, limit: int = 10, label: str = "") -> list[bytes]:
        """Greet everybody; gives the id of it."""
        request = admin.CreateBroadcastRequest(limit=limit)
        broadcast = request.broadcast
        broadcast.broadcast_id = secrets.token_bytes(8)
        broadcast.source.service_name, broadcast.destination.service_name = greeter(UPSTREAM), hello(UPSTREAM)
        broadcast.data.Pack(StringValue(value=text))
        if label:
            broadcast.required_labels.add(service_name="client", label=label)
        stub.CreateBroadcast(request, timeout=30)
        return [broadcast.broadcast_id]

    def active(self, stub: rpc.admin.AdminStub) -> list[bytes]:
        """The limited ones, without the first."""
        reply = stub.ListActiveBroadcasts(admin.ListActiveBroadcastsRequest(), timeout=30, wait_for_ready=True)
        return [one.broadcast_id for one in reply.broadcasts if b"upstream" not in one.data.value]

    def assert_reached(self, clients: list[Client], occasion: str) -> None:
        for client in clients:
            for kind, operator in self.operators.items():
                for number in range(5):
                    self.leave_a_message(operator, client, f"{client.name} {occasion} by {kind.value} {number}")
        for client in clients:
            for kind in self.operators:
                for number in range(5):
                    text = f"Hello {client.name} {occasion} by {kind.value} {number}!"
                    self.operator.wait_for_text(text, 60)

    def assert_all_processed(self, server: Server, client: Client) -> None:
        eventually(lambda: server.pending(client.client_id) == 0, "everything is confirmed and processed", 60)
