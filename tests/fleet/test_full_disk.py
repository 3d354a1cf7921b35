"""A full disk under SQLite: what cannot be stored is refused, what was accepted stays, and it goes on (issue 2).

The disk is full by a limit on the size of files (RLIMIT_FSIZE), which can be put on a running process and
lifted again without any rights.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from unittest import TestCase

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from fleetspeak import ids
from fleetspeak.pb import common
from fleetspeak.testing.wireclient import Identity, RefusedError, Stream

from .server import SmallServer

NOOP = 'services { name: "noop" factory: "NOOP" }'
KIB = 1024


class FullDisk(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.server = SmallServer(Path(folder.name), NOOP)
        self.addCleanup(self.server.clean_up)
        self.server.start()
        self.identity = Identity.make()
        with self.server.connect(self.identity) as connection:
            connection.poll(common.ContactData())

    def test_nothing_accepted_is_lost_and_all_goes_on_when_there_is_room_again(self) -> None:
        accepted = self.fill_the_disk()
        refused, refusal = self.send_until_refused(accepted)
        self.assertEqual(refusal.status, 500)
        self.assertIn("cannot be stored now", refusal.text)
        with self.assertRaises((OSError, RefusedError)):
            self.send_by_stream(self.message())
        self.assertTrue(self.server.program.running)
        self.assertTrue(self.server.program.lines_matching("disk"))
        self.assertEqual(self.server.program.lines_matching("Traceback|Unhandled"), [])

        self.limit_files(resource.RLIM_INFINITY)
        with self.server.connect(self.identity) as connection:
            connection.poll(common.ContactData(messages=[refused]))
        self.send_by_stream(self.message())
        accepted.add(ids.message_id_of(self.identity.client_id, "test", refused.source_message_id))
        stored = {row[0] for row in self.server.query("SELECT message_id FROM messages")}
        self.assertEqual(accepted - stored, set())
        self.assertEqual(self.server.query("PRAGMA integrity_check"), [("ok",)])

    def fill_the_disk(self) -> set[bytes]:
        """Insert messages until there is no room for another; returns the ids of those that were accepted."""
        files = self.server.folder.glob(f"{self.server.database.name}*")
        self.limit_files(max(path.stat().st_size for path in files) + 512 * KIB)
        stub = self.server.admin()
        accepted: set[bytes] = set()
        for _ in range(1000):
            message = common.Message(message_id=ids.random_message_id())
            message.source.service_name = "operator"
            message.destination.service_name = "noop"
            message.destination.client_id = self.identity.client_id
            message.data.Pack(BytesValue(value=bytes(64 * KIB)))
            try:
                stub.InsertMessage(message, timeout=10)
            except grpc.RpcError as error:
                self.assertIn(error.code(), (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL))
                return accepted
            accepted.add(message.message_id)
        raise AssertionError("the disk never became full")

    def send_until_refused(self, accepted: set[bytes]) -> tuple[common.Message, RefusedError]:
        """Small messages may still find room; returns the first one that does not, and what the server said."""
        for _ in range(1000):
            message = self.message()
            try:
                with self.server.connect(self.identity) as connection:
                    connection.poll(common.ContactData(messages=[message]))
            except RefusedError as refusal:
                return message, refusal
            accepted.add(ids.message_id_of(self.identity.client_id, "test", message.source_message_id))
        raise AssertionError("the disk never became full")

    def limit_files(self, size: int) -> None:
        resource.prlimit(self.server.program.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def send_by_stream(self, message: common.Message) -> None:
        with Stream(self.server.connect(self.identity), common.ContactData()) as stream:
            stream.send(common.ContactData(messages=[message]))
            while not stream.receive().ack_index:
                pass

    def message(self) -> common.Message:
        message = common.Message(source_message_id=ids.random_message_id()[:16])
        message.source.service_name = "test"
        message.destination.service_name = "noop"
        return message
