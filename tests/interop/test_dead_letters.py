"""Dead letters of ours on a database that the Go server works on as well."""

from __future__ import annotations

import time

import grpc

from fleetspeak import rpc
from fleetspeak.core.retrytimes import DEAD
from fleetspeak.pb import admin, common
from fleetspeak.records import ClientData, RetryLimits
from fleetspeak.testing.storecontract.base import C1, from_client, message_id
from tests.mariadb import the_server
from tests.programs import eventually
from tests.store.test_mysql import ToldMysqlStore

from .conversation import Conversation
from .fleet import UPSTREAM, Fleet

HOUR = 3600 * 10**9


class DeadLetterTests(Conversation):
    @classmethod
    def setUpClass(cls) -> None:
        """Each test has a fleet of its own."""

    def setUp(self) -> None:
        self.database = the_server().new_database()
        self.addCleanup(self.database.drop)
        self.fleet = Fleet(UPSTREAM, (UPSTREAM,))  # type: ignore[misc]
        self.addCleanup(self.fleet.clean_up)
        self.ago = HOUR
        self.store = ToldMysqlStore(self.database.dsn, now_ns=lambda: time.time_ns() - self.ago, uniform=lambda: 0.5)
        self.done(self.store.open())
        self.addCleanup(self.store.close)

    def done(self, call: object) -> object:
        """What a call of the store gives."""
        found: list[object] = []
        call.addBoth(found.append)  # type: ignore[attr-defined]
        self.store.perform()
        return found[0]

    def test_the_go_server_leaves_them_alone(self) -> None:
        """Until they are retried: then they are messages like any other, to it as well."""
        dead, living = from_client(1), from_client(2)
        dead.priority, dead.background = common.Message.LOW, True
        self.done(self.store.add_client(C1, ClientData(b"key")))
        self.done(self.store.store_messages([dead]))
        self.ago = 0
        [buried] = self.done(self.store.overdue_messages(10, limits=RetryLimits(max_attempts=1)))  # type: ignore[misc]
        self.assertTrue(buried.result.failed_reason.startswith(DEAD))
        self.ago = HOUR
        self.done(self.store.store_messages([living]))  # due since an hour
        self.ago = 0
        server = self.fleet.server(UPSTREAM, "upstream-server", self.database)
        server.start()
        self.assertEqual(self.wait_for_reason(2), 'unknown service "TestServiceName"')
        rows = self.database.query("SELECT HEX(message_id), retry_count FROM pending_messages")
        self.assertEqual(rows, [(dead.message_id.hex().upper(), 0)], "its backlog has passed, and left it alone")
        with grpc.insecure_channel(self.fleet.deployment.admin_address) as channel:
            stub = rpc.admin.AdminStub(channel)
            request = admin.GetMessageStatusRequest(message_id=message_id(1))
            self.assertTrue(stub.GetMessageStatus(request, timeout=30).result.HasField("processed_time"))
        self.assertEqual(self.done(self.store.dead_message_counts()), {"TestServiceName": 1})
        self.assertEqual(self.done(self.store.retry_messages([message_id(1)])), 1)
        self.assertEqual(self.wait_for_reason(1), 'unknown service "TestServiceName"')
        self.assertEqual(self.database.query("SELECT COUNT(*) FROM pending_messages"), [(0,)])
        [flags] = self.database.query(
            "SELECT priority, background, is_blocklisted_source FROM messages"
            f" WHERE message_id = x'{dead.message_id.hex()}'"
        )
        self.assertEqual(flags, (common.Message.LOW, 1, 0), "columns that it does not know keep what is in them")

    def wait_for_reason(self, number: int) -> str:
        """Why a message has failed, once it has and is no dead letter."""

        def reason() -> str:
            results = self.done(self.store.message_results([message_id(number)]))
            result = results.get(message_id(number))  # type: ignore[attr-defined]
            return "" if result is None or result.failed_reason.startswith(DEAD) else str(result.failed_reason)

        eventually(lambda: bool(reason()), f"the Go server takes message {number}", 60)
        return reason()
