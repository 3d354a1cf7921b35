"""Retention on a Galera cluster: what one node deletes is gone on all, while others write."""

from __future__ import annotations

import itertools
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from fleetspeak.records import ClientData, Exchange, Prunable
from fleetspeak.server.retention import Pruner
from fleetspeak.store.outcome import only
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.testing.storecontract.base import C1, from_client, poll
from fleetspeak.wire import dsn
from tests.galera.cluster import Cluster, the_cluster
from tests.programs import eventually

DAY = 86_400
OLD_ROWS = 1500
KEEP = {kind: 7 * DAY for kind in Prunable if kind is not Prunable.MESSAGES_OF_CLIENTS}
DATABASES = itertools.count()


class RetentionTests(TestCase):
    timeout = 240
    cluster: Cluster

    @classmethod
    def setUpClass(cls) -> None:
        cls.cluster = the_cluster()

    def setUp(self) -> None:
        self.database = f"retention_{next(DATABASES)}"
        self.cluster.new_database(self.database)

    async def open(self, node: int) -> MysqlStore:
        store = MysqlStore(dsn.parse(self.cluster.nodes[node].dsn(self.database)), reactor=reactor)
        self.addCleanup(store.close)
        await store.open()
        return store

    def fill(self) -> None:
        """Old rows of every kind, also of the table that has no key."""
        old = int(time.time()) - 30 * DAY
        client = "UNHEX(LPAD(HEX(seq + 1000), 16, '0'))"
        numbers = f"seq_1_to_{OLD_ROWS}"
        for statement in (
            "INSERT INTO clients (client_id, client_key, blacklisted, last_contact_time)"
            f" SELECT {client}, X'00', 0, {old * 10**9} FROM {numbers}",
            "INSERT INTO client_contacts (client_id, time, sent_nonce, received_nonce)"
            f" SELECT {client}, {old * 10**9}, X'0000000000000000', X'0000000000000000' FROM {numbers}",
            "INSERT INTO client_resource_usage_records (client_id, scope, server_timestamp, process_terminated)"
            f" SELECT {client}, 'x', {old * 10**9}, 0 FROM {numbers}",
            "INSERT INTO messages (message_id, source_service_name, destination_service_name, creation_time_seconds,"
            " creation_time_nanos, processed_time_seconds, processed_time_nanos)"
            f" SELECT UNHEX(SHA2(seq, 256)), 'a', 'b', {old}, 0, {old}, 0 FROM {numbers}",
        ):
            self.cluster.nodes[0].query(self.database, statement)

    def counts(self, node: int) -> list[int]:
        tables = ("clients", "client_contacts", "client_resource_usage_records", "messages")
        return [
            self.cluster.nodes[node].query(self.database, f"SELECT COUNT(*) FROM {table}")[0][0] for table in tables
        ]

    async def test_while_others_write(self) -> None:
        writer, pruning = await self.open(0), await self.open(1)
        await writer.add_client(C1, ClientData(b"key"))
        self.fill()
        pruner = Pruner(pruning, KEEP, reactor, time.time_ns, share=1.0)
        state = await pruner.begin()
        assert state is not None
        pass_ends = Deferred.fromCoroutine(pruner.finish_pass(state))
        numbers = itertools.count(1)

        async def caller() -> int:
            written = 0
            while not pass_ends.called or written < 20:
                message = from_client(next(numbers), created=time.time())
                await only(writer.exchange([Exchange([message], poll())]))
                written += 1
            return written

        written = sum(await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(4)]))
        self.assertTrue(await pass_ends)
        for node in range(3):
            eventually(lambda node=node: self.counts(node) == [1, written, 0, written], f"node {node} has it all")
