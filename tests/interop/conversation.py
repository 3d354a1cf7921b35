"""What every pair of programs must be able to say to each other, and the test case that says it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar
from unittest import TestCase

from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.pb import stdin
from tests.programs import eventually

from .fleet import OURS, UPSTREAM, Client, Fleet, Kind, Server, Transport, greeter, hello
from .operators import unpack


class Conversation(TestCase):
    """Tests about the clients of one server, which all tests of the class share."""

    server_kind: ClassVar[Kind]
    connectors: ClassVar[Sequence[Kind]] = (UPSTREAM, OURS)
    configurator: ClassVar[Kind]
    """Whose configurator wrote what the server and all its clients load."""
    fleet: ClassVar[Fleet]
    server: ClassVar[Server]

    @classmethod
    def setUpClass(cls) -> None:
        cls.fleet = Fleet(cls.configurator, cls.connectors)
        cls.addClassCleanup(cls.fleet.clean_up)
        cls.fleet.start_operators()
        cls.server = cls.fleet.server(cls.server_kind)
        cls.server.start()

    def converse(self, kind: Kind, transport: Transport) -> Client:
        """A new client of that kind enrols, greets by all connectors, runs a command, and leaves nothing open."""
        client = self.fleet.client(kind, f"{kind.value} {transport}".replace(" ", "-"), transport)
        client.start()
        self.await_enrolment(client)
        self.assert_greets(client)
        self.assert_lists(client)
        self.assert_nothing_pending(self.server, client)
        client.stop()
        return client

    def await_enrolment(self, client: Client) -> None:
        """The server knows the client's id."""
        client_id = client.client_id
        eventually(lambda: self.fleet.operator.clients([client_id]), f"{client.name} enrols")

    def assert_greets(self, client: Client, occasion: str = "") -> None:
        """Operators by all connectors greet daemons by all, and each answer comes back word for word.

        client-tests 130.
        """
        pairs = list(itertools.product(self.fleet.connectors, repeat=2))
        for ours, theirs in pairs:
            greeting = StringValue(value=f"{client.name} {occasion} {ours} {theirs}")
            self.fleet.operators[ours].send(greeter(ours), client.client_id, hello(theirs), greeting)
        for ours, theirs in pairs:
            answer = self.fleet.operators[ours].wait_for_text(f"Hello {client.name} {occasion} {ours} {theirs}!")
            self.assertEqual(answer.source.client_id, client.client_id)
            self.assertEqual(answer.source.service_name, hello(theirs))
            self.assertEqual(answer.destination.service_name, greeter(ours))

    def assert_lists(self, client: Client) -> None:
        """The Stdin service runs ls with our arguments and sends what it printed."""
        operator = self.fleet.operator
        request = stdin.InputMessage(args=["-1", str(client.folder / "etc")])
        operator.send("ls", client.client_id, "ls", request, "StdinServiceInputMessage")
        answer = operator.wait_for(
            lambda message: message.source.client_id == client.client_id and message.source.service_name == "ls"
        )
        self.assertEqual(answer.message_type, "StdinServiceOutputMessage")
        self.assertEqual(unpack(answer, stdin.OutputMessage).stdout, b"communicator.txt\nservices\ntextservices\n")

    def assert_nothing_pending(self, server: Server, client: Client) -> None:
        """The server waits for no acknowledgement any more, and no service for a message."""
        client_id = client.client_id
        eventually(lambda: self.fleet.operator.pending([client_id]) == 0, "the client has confirmed everything")
        eventually(lambda: server.pending(client_id) == 0, "the server has processed everything")
