"""kill -9 of the server at any moment, under load in both directions (issue 2, robustness)."""

from __future__ import annotations

import itertools
import random
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from unittest import TestCase

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from fleetspeak import ids
from fleetspeak.pb import admin, common
from tests.programs import eventually

from .machine import SERVICE, Machine
from .server import SmallServer

CLIENTS = 50
MESSAGES = 5_000
"""To the server, and as many to the clients."""

SENDERS = 20
KILLS = 5
SEED = 20261123

SAVER = """
services {
  name: "saver"
  factory: "MessageSaver"
  max_parallelism: 1000
  config { [type.googleapis.com/google.protobuf.StringValue] { value: "saved" } }
}
"""


class Sender(threading.Thread):
    """An operator who inserts messages and repeats each, under its id, until the server has accepted it."""

    def __init__(self, server: SmallServer, clients: Sequence[ids.ClientId]) -> None:
        super().__init__(daemon=True)
        self.accepted: set[bytes] = set()
        self._channel = server.admin_channel()
        self._stub = server.admin()
        self._clients = clients
        self._stopping = threading.Event()

    def run(self) -> None:
        for number, client_id in enumerate(self._clients):
            message = common.Message(message_id=ids.random_message_id())
            message.source.service_name = "operator"
            message.destination.service_name = SERVICE
            message.destination.client_id = client_id
            message.data.Pack(BytesValue(value=b"to the client, %d" % number))
            while not self._stopping.is_set():
                try:
                    self._stub.InsertMessage(message, timeout=10)
                except grpc.RpcError:
                    self._stopping.wait(0.05)
                else:
                    self.accepted.add(message.message_id)
                    break

    def finish(self) -> None:
        self._stopping.set()
        self.join(30)


class ServerIsKilled(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.server = SmallServer(self.folder, SAVER)
        self.addCleanup(self.server.clean_up)
        self.server.start()
        self.machines = [Machine(self.server.connect, number % 2 == 0, SEED + number) for number in range(CLIENTS)]

    def test_kill_9_under_load_loses_and_doubles_nothing(self) -> None:
        """50 clients send 5,000 messages and 5,000 are sent to them while the server is killed five times.

        Every message is processed at least once, every accepted one is exactly once in the store, none is lost.
        """
        said = self.start_machines()
        senders = self.start_senders()
        moments = sorted(random.Random(SEED).sample(range(100, 2 * MESSAGES - 100), KILLS))
        for moment in moments:
            self.await_progress(moment)
            self.server.program.kill()
            self.server.start()
        for sender in senders:
            sender.join(60)
        inserted = set().union(*(sender.accepted for sender in senders))
        self.assertEqual(len(inserted), MESSAGES)
        eventually(lambda: self.confirmed() == MESSAGES, "the server has confirmed what the clients said", 60)
        self.server.stop()
        self.server.let_time_pass()
        self.server.start()
        eventually(lambda: self.received() >= inserted, "the clients have received what was sent to them", 60)
        self.assert_nothing_pending()
        self.assertEqual(self.received(), inserted)
        self.assertEqual(self.saved(), said)
        self.assertEqual(self.stored("source_client_id IS NOT NULL AND destination_service_name = 'saver'"), said)
        self.assertEqual(self.stored("destination_client_id IS NOT NULL"), inserted)

    def start_machines(self) -> set[bytes]:
        """Start all; returns the message ids of what they say."""
        said: set[bytes] = set()
        for number, machine in enumerate(self.machines):
            texts = [b"to the server, %d, %d" % (number, count) for count in range(MESSAGES // CLIENTS)]
            said |= machine.say("saver", texts)
            self.addCleanup(machine.finish)
            machine.start()
        for machine in self.machines:
            self.assertTrue(machine.enrolled.wait(30))
        return said

    def start_senders(self) -> list[Sender]:
        """Some of them, who send to all clients in turn."""
        clients = itertools.cycle(machine.identity.client_id for machine in self.machines)
        senders = [Sender(self.server, list(itertools.islice(clients, MESSAGES // SENDERS))) for _ in range(SENDERS)]
        for sender in senders:
            self.addCleanup(sender.finish)
            sender.start()
        return senders

    def confirmed(self) -> int:
        return sum(len(machine.confirmed) for machine in self.machines)

    def received(self) -> set[bytes]:
        return set(itertools.chain.from_iterable(list(machine.received) for machine in self.machines))

    def progress(self) -> int:
        return self.confirmed() + sum(len(machine.received) for machine in self.machines)

    def saved(self) -> set[bytes]:
        """The ids of the messages that the service has saved; a kill may have left unfinished files, too."""
        return {bytes.fromhex(path.stem) for path in (self.folder / "saved").glob("[0-9a-f]*.textproto")}

    def stored(self, condition: str) -> set[bytes]:
        """The ids of those messages; the store could not hold one of them twice without this seeing it."""
        found = [row[0] for row in self.server.query(f"SELECT message_id FROM messages WHERE {condition}")]
        self.assertEqual(len(found), len(set(found)))
        return set(found)

    def await_progress(self, moment: int) -> None:
        eventually(lambda: self.progress() >= moment, f"progress {moment} of {2 * MESSAGES}", 60)

    def assert_nothing_pending(self) -> None:
        stub = self.server.admin()
        every = admin.GetPendingMessageCountRequest(
            client_ids=[machine.identity.client_id for machine in self.machines]
        )
        eventually(lambda: stub.GetPendingMessageCount(every).count == 0, "the clients have confirmed everything")
        pending = "SELECT message_id FROM pending_messages"
        eventually(lambda: not self.server.query(pending), "the server has processed everything")
