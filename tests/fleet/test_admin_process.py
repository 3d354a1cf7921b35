"""The admin API in a process of its own: one of ours has the clients, another one the operators, on one MariaDB."""

from __future__ import annotations

import threading
import time
from unittest import TestCase

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleetspeak import rpc
from fleetspeak.pb import admin, common, components, operator
from fleetspeak.records import UNLIMITED
from fleetspeak.testing.wireclient import Identity
from tests.mariadb import the_server
from tests.sharing import SERVICE, Sharing, message_for, next_text

PROMPT = 15.0
"""Seconds: much less than the half of a minute after which a server looks by itself."""


def admin_only(config: components.Config) -> None:
    config.ClearField("https_config")
    config.ClearField("notification_listen_address")
    config.notification_use_http_notifier = True


class AdminProcessTests(TestCase):
    def setUp(self) -> None:
        self.database = the_server().new_database()
        self.addCleanup(self.database.drop)
        self.sharing = Sharing(self.database)
        self.addCleanup(self.sharing.clean_up)
        self.admin, self.front = self.sharing.servers
        self.admin.process.reconfigure(admin_only)

        def front_only(config: components.Config) -> None:
            config.ClearField("admin_config")

        self.front.process.reconfigure(front_only)
        for server in (self.admin, self.front):
            server.process.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.admin.admin_port}")
        self.addCleanup(self.channel.close)
        self.stub = rpc.admin.AdminStub(self.channel)
        self.operator = rpc.operator.OperatorStub(self.channel)

    def test_messages_and_broadcasts_reach_streams_of_the_other_process(self) -> None:
        with self.front.stream(identity := Identity.make()) as stream:
            self.stub.InsertMessage(message_for(identity, "a message"), timeout=30)
            self.assertEqual(next_text(stream, PROMPT), "a message")
            begun = time.monotonic()
            self.stub.CreateBroadcast(self.broadcast("a broadcast"), timeout=30)
            self.assertEqual(next_text(stream, PROMPT), "a broadcast")
            print(f"broadcast to a stream of the other process: {time.monotonic() - begun:.2f} s")

    def test_a_blacklisted_client_is_asked_to_rekey_by_the_other_process(self) -> None:
        identity = Identity.make()
        self.front.connect(identity).poll(common.ContactData())
        self.front.process.program.kill()
        self.front.process.start()  # it remembers nothing of the client
        self.stub.BlacklistClient(admin.BlacklistClientRequest(client_id=identity.client_id), timeout=30)
        contact = self.front.connect(identity).poll(common.ContactData())
        self.assertEqual([one.message_type for one in contact.messages], ["RekeyRequest"])

    def test_health(self) -> None:
        health = health_pb2_grpc.HealthStub(self.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        stopping = threading.Thread(target=self.admin.process.program.terminate)
        stopping.start()
        self.addCleanup(stopping.join)
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)

    def test_nothing_is_changed_without_an_entry_in_the_audit_trail(self) -> None:
        """Also when the process is killed in the middle."""
        identity = Identity.make()
        self.front.connect(identity).poll(common.ContactData())
        stop = threading.Event()

        def insert() -> None:
            try:
                while not stop.is_set():
                    self.stub.InsertMessage(message_for(identity, "load"), timeout=30)
            except grpc.RpcError:
                pass  # the server was killed

        inserters = [threading.Thread(target=insert) for _ in range(8)]
        for inserter in inserters:
            inserter.start()
        while self.inserted() < 200:
            time.sleep(0.01)  # not for the outcome: until there is something to lose
        self.admin.process.program.kill()
        stop.set()
        for inserter in inserters:
            inserter.join()
        messages = {
            str(message_id)
            for (message_id,) in self.database.query(
                "SELECT LOWER(HEX(message_id)) FROM messages WHERE message_type = 'load'"
            )
        }
        entries = [str(text) for (text,) in self.database.query("SELECT request FROM fleetspeak_audit")]
        audited = {text.partition("message_id=")[2].partition(",")[0] for text in entries}
        self.assertEqual(messages - audited, set())
        self.admin.process.start()
        request = operator.ListAuditEntriesRequest(page_size=1000)
        page = self.operator.ListAuditEntries(request, timeout=30, wait_for_ready=True)
        self.assertGreaterEqual(len(page.entries), 200)
        self.assertLessEqual({entry.outcome for entry in page.entries}, {"OK", ""})

    def test_a_share_that_a_server_left_behind_is_given_back(self) -> None:
        """By the process without clients, as nobody else runs."""
        self.front.process.program.kill()
        request = self.broadcast("a broadcast")
        request.broadcast.broadcast_id, request.limit = b"12345678", 10
        self.stub.CreateBroadcast(request, timeout=30)
        self.database.query(
            "INSERT INTO broadcast_allocations"
            " (broadcast_id, allocation_id, sent, message_limit, expiration_time_seconds, expiration_time_nanos)"
            " VALUES ('12345678', 'abcdefgh', 2, 5, 1000, 0)"
        )
        self.database.query("UPDATE broadcasts SET allocated = 5 WHERE broadcast_id = '12345678'")
        while self.database.query("SELECT * FROM broadcast_allocations"):
            time.sleep(0.05)  # until the next sweep
        self.assertEqual(self.database.query("SELECT sent, allocated FROM broadcasts"), [(2, 0)])

    def inserted(self) -> int:
        [(count,)] = self.database.query("SELECT COUNT(*) FROM messages WHERE message_type = 'load'")
        assert isinstance(count, int)
        return count

    def broadcast(self, message_type: str) -> admin.CreateBroadcastRequest:
        request = admin.CreateBroadcastRequest(limit=UNLIMITED)
        request.broadcast.source.service_name = SERVICE
        request.broadcast.message_type = message_type
        return request
