"""A whole client with a Socket service, on the real reactor (client-tests.md L 119, O 132)."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from fleetspeak.client.assembly import build_client
from fleetspeak.client.persistence.memory import MemoryPersistence
from fleetspeak.pb import common, system
from fleetspeak.testing.clientside import FakeCommunicatorFactory, RecordingEnding, client_settings
from tests.client.process.children import until
from tests.client.sockets.peer import connect, from_process
from tests.client.wholeclient import acks_of, errors_of, in_thread

SERVICE = """
    name: "Sock" factory: "Socket"
    config { [type.googleapis.com/fleetspeak.socketservice.Config] { api_proxy_path: "%s" } }
"""


class WholeClient(TestCase):
    timeout = 30

    async def start(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        services = Path(folder.name) / "textservices"
        services.mkdir()
        (Path(folder.name) / "services").mkdir()
        self.path = str(Path(folder.name) / "made" / "socket")
        (services / "sock").write_text(SERVICE % self.path)
        self.ending = RecordingEnding()
        self.communicators = FakeCommunicatorFactory()
        self.client = build_client(
            client_settings(configuration_directory=Path(folder.name)),
            reactor,
            self.ending,
            persistence=MemoryPersistence(),
            in_thread=in_thread,
            communicator=self.communicators,
            stats=[],
        )
        self.client.startService()
        await until(lambda: self.communicators.made is not None and self.communicators.made.started)

    def stop(self) -> Deferred[None]:
        stopping: Any = self.client.stopService()
        assert isinstance(stopping, Deferred)
        return stopping

    def message(
        self, service: str, number: int, message_type: str, data: ProtobufMessage | None = None
    ) -> common.Message:
        client_id = self.communicators.communicator.link.identity.client_id
        message = common.Message(
            message_id=b"%032d" % number,
            destination=common.Address(service_name=service, client_id=client_id),
            message_type=message_type,
        )
        if data is not None:
            message.data.Pack(data)
        return message

    async def test_item_132_without_a_peer_nothing_hangs(self) -> None:
        await self.start()
        server = self.communicators.communicator
        restart = system.RestartServiceRequest(name="Sock")
        server.exchange(self.message("Sock", 1, "Queued"), self.message("system", 2, "RestartService", restart))
        acked: list[bytes] = []
        failed: list[tuple[bytes, str]] = []

        def restarted() -> bool:
            sent = server.exchange()
            acked.extend(acks_of([each for each in sent if each.message_type == "MessageAck"]))
            failed.extend(errors_of([each for each in sent if each.message_type == "MessageError"]))
            return b"%032d" % 2 in acked

        await until(restarted, 5)
        self.assertEqual(([b"%032d" % 2], []), (acked, failed))
        server.exchange(self.message("system", 3, "Die", system.DieRequest(force=True)))
        await until(lambda: self.ending.ended or self.ending.aborted)
        self.assertEqual([7], self.ending.ended + self.ending.aborted)
        await self.stop().addTimeout(3, reactor)  # type: ignore[arg-type]
        self.assertEqual([], os.listdir(os.path.dirname(self.path)))

    async def test_item_119_a_server_that_answers_after_the_process_has_left(self) -> None:
        await self.start()
        server = self.communicators.communicator
        peer = await connect(self.path)
        peer.begin()
        for number in range(160):
            priority = common.Message.HIGH if number < 80 else common.Message.MEDIUM
            peer.send(from_process("Request", number, priority=priority))
        entries: list[Any] = []

        def taken() -> bool:
            entries.extend(server.link.outbox.take(1000, 10_000_000))
            return sum(entry.message.message_type == "Request" for entry in entries) == 160

        await until(taken)
        await peer.close()
        server.link.outbox.ack(entries)
        again = await connect(self.path)
        again.begin()
        again.send(from_process("After", 999))
        await until(lambda: any(sent.message_type == "After" for sent in server.exchange()))
        await until(lambda: again.acked == [b"%016d" % 999])
        await self.stop().addTimeout(3, reactor)  # type: ignore[arg-type]
        await until(lambda: again.ended)
