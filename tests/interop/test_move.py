"""A client moved from the upstream server to ours and back keeps its id and loses nothing (issue 2).

The two servers have the same certificate and address, one of them at a time, as when a fleet is moved.

Before each move the server has got its acknowledgements: one that comes to another server, which knows nothing of
the message, is harmless to ours, but the upstream one keeps it and tries it again for ever.
"""

from __future__ import annotations

from collections import Counter

from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from tests.programs import eventually

from .conversation import Conversation
from .fleet import OURS, POLLING, STREAMING, UPSTREAM, Client, Fleet, Kind, Server, Transport, greeter, hello
from .operators import unpack

NUMBERS = 300
"""More than a client holds unconfirmed (100), so that its services feel the move, too."""


class MovedClient(Conversation):
    """One client, upstream's or ours, and two servers of which one serves."""

    @classmethod
    def setUpClass(cls) -> None:
        """Each test has a fleet of its own."""

    def setUp(self) -> None:
        self.fleet = Fleet(UPSTREAM, (UPSTREAM, OURS))  # type: ignore[misc]
        self.addCleanup(self.fleet.clean_up)
        self.fleet.start_operators()
        self.home = self.fleet.server(UPSTREAM, "home-server")
        self.abroad = self.fleet.server(OURS, "other-server")

    def test_our_streaming_client_moves_while_it_runs(self) -> None:
        self.move_a_running_client(OURS, STREAMING)

    def test_our_polling_client_moves_while_it_runs(self) -> None:
        self.move_a_running_client(OURS, POLLING)

    def test_the_upstream_streaming_client_moves_while_it_runs(self) -> None:
        self.move_a_running_client(UPSTREAM, STREAMING)

    def test_the_upstream_polling_client_moves_while_it_runs(self) -> None:
        self.move_a_running_client(UPSTREAM, POLLING)

    def move_a_running_client(self, kind: Kind, transport: Transport) -> None:
        """What its service says during two moves comes, and what waits at a server it left comes when it is back."""
        client = self.fleet.client(kind, "wanderer", transport)
        self.home.start()
        client.start()
        self.await_enrolment(client)
        client_id = client.client_id
        self.start_counting(client)
        self.assert_nothing_pending(self.home, client)
        self.swap(self.home, self.abroad)
        self.await_enrolment(client)
        self.assert_greets(client, "abroad")
        self.assert_nothing_pending(self.abroad, client)
        self.swap(self.abroad, self.home)
        self.assert_greets(client, "back home")
        self.assert_everything_counted()
        self.assertEqual(client.client_id, client_id)
        self.assertEqual(self.fleet.operator.clients(), {client_id})
        self.assert_nothing_pending(self.home, client)

    def test_a_stopped_machine_moves_with_its_state_and_configuration(self) -> None:
        """Both programs on the state file of one machine, at both servers: always the same client.

        And what was sent to it while it was away waits for it at that server.
        """
        client = self.fleet.client(UPSTREAM, "machine", STREAMING)
        self.home.start()
        client.start()
        self.await_enrolment(client)
        client_id = client.client_id
        client.stop()
        self.leave_a_message(client, "left behind")
        self.swap(self.home, self.abroad)
        for program in (OURS, UPSTREAM):
            client.kind = program
            client.start()
            self.await_enrolment(client)
            self.assert_greets(client, f"abroad with {program}")
            self.assert_nothing_pending(self.abroad, client)
            client.stop()
        beside = {path.name for path in client.folder.glob("state*")}
        self.assertLessEqual({"state", "state.bak", "state.host", "state.lock"}, beside, "the Go client minds none")
        self.leave_a_message(client, "left abroad")
        self.damage_the_state(client)
        self.swap(self.abroad, self.home)
        client.kind = OURS
        client.start()
        self.assert_answered("left behind")
        self.assert_greets(client, "back home")
        self.assert_nothing_pending(self.home, client)
        self.swap(self.home, self.abroad)
        self.assert_answered("left abroad")
        self.assertEqual(client.client_id, client_id)
        self.assertEqual(self.fleet.operator.clients(), {client_id})
        self.assert_nothing_pending(self.abroad, client)

    def damage_the_state(self, client: Client) -> None:
        """As a power cut can, since the Go client does not sync it."""
        (client.folder / "state").write_bytes(b"\0" * 121)

    def swap(self, old: Server, new: Server) -> None:
        """The other server takes over the address."""
        old.stop()
        new.start()

    def start_counting(self, client: Client) -> None:
        """Let a service of the client talk, and wait until it is well under way."""
        operator = self.fleet.operator
        operator.send(greeter(UPSTREAM), client.client_id, "counter", Int64Value(value=NUMBERS))
        operator.wait_until(lambda: len(self.counted()) >= 20, "the first numbers")

    def counted(self) -> Counter[int]:
        """How often each number has come."""
        messages = [message for message in self.fleet.operator.received if message.source.service_name == "counter"]
        return Counter(unpack(message, Int64Value).value for message in messages)

    def assert_everything_counted(self) -> None:
        operator = self.fleet.operator
        operator.wait_until(lambda: len(self.counted()) == NUMBERS, "all the numbers", 60)
        self.assertEqual(set(self.counted()), set(range(NUMBERS)))

    def leave_a_message(self, client: Client, text: str) -> None:
        """Send it while the client is not there; it stays with the server that is."""
        self.fleet.operator.send(greeter(UPSTREAM), client.client_id, hello(UPSTREAM), StringValue(value=text))
        eventually(lambda: self.fleet.operator.pending([client.client_id]) == 1, "the message waits")

    def assert_answered(self, text: str) -> None:
        self.fleet.operator.wait_for_text(f"Hello {text}!")
