"""Several servers on a Galera cluster of three nodes (datastore 8): each at a node of its own, or through a balancer.

Locks are a node's own, so two servers find out only at COMMIT that they wanted the same rows; then one of them, or a
statement before, gets error 1213, and does it all again.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pymysql
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IStore
from fleetspeak.records import ClientData, Contact
from fleetspeak.store.sql import mysql, mysqlsetup
from fleetspeak.store.sql.mysql import MysqlDatabase, MysqlStore
from fleetspeak.testing.storecontract.base import C1
from fleetspeak.testing.storecontract.broadcasts import broadcast, broadcast_id, send
from fleetspeak.wire import dsn
from tests.galera.balancer import start_galera_balancer
from tests.galera.cluster import Cluster, Node, the_cluster
from tests.galera.load import Load
from tests.store.relay import Relay

DATABASES = itertools.count()


class GaleraCase(TestCase):
    """Tests share one cluster, and leave it whole."""

    cluster: Cluster
    timeout = 240

    @classmethod
    def setUpClass(cls) -> None:
        cls.cluster = the_cluster()

    def setUp(self) -> None:
        self.database = f"fleetspeak_{next(DATABASES)}"
        self.cluster.new_database(self.database)
        self.errors: list[int] = []
        explain, settle = MysqlDatabase._explain, MysqlDatabase._settle

        def noted(database: MysqlDatabase, error: Exception) -> Exception:
            self.errors.append(mysql._number(error))
            return explain(database, error)

        def settled(database: MysqlDatabase, cause: Exception) -> bool:
            self.settled.append(mysql._number(cause))
            return settle(database, cause)

        connect = MysqlDatabase._connect

        def connected(database: MysqlDatabase) -> None:
            try:
                connect(database)
            except pymysql.Error as error:
                self.refused.append(mysql._number(error))
                raise

        self.settled: list[int] = []
        """The errors after which it had to be found out whether a COMMIT had happened."""
        self.refused: list[int] = []
        """The errors with which connections were refused."""
        self.patch(MysqlDatabase, "_explain", noted)
        self.patch(MysqlDatabase, "_settle", settled)
        self.patch(MysqlDatabase, "_connect", connected)

    async def open(self, *ports: int, parameters: str = "") -> list[MysqlStore]:
        stores = [
            MysqlStore(dsn.parse(f"root@tcp(127.0.0.1:{port})/{self.database}{parameters}"), reactor=reactor)
            for port in ports
        ]
        await gatherResults([store.open() for store in stores])
        self.addCleanup(lambda: gatherResults([store.close() for store in stores]))
        return stores

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """Ask the first node, when it has applied everything."""
        node = self.cluster.nodes[0]
        return node.query(self.database, f"SET STATEMENT wsrep_sync_wait = 1 FOR {statement}")

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await deferLater(reactor, 0.05)  # type: ignore[arg-type]

    def balancer(self) -> int:
        """HAProxy in front of the nodes; gives its port."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.cluster.nodes[0].query(None, "CREATE USER IF NOT EXISTS haproxy@'%'")
        haproxy, port = start_galera_balancer(folder, [node.port for node in self.cluster.nodes])
        self.addCleanup(haproxy.make_sure_it_ended)
        return port

    def assert_accounted(self, load: Load) -> None:
        wrong = load.account(self.ask)
        self.assertEqual(wrong[:20], [], f"{len(wrong)} in all; {load}")
        print(load, f"; retried after {sorted(set(self.errors))}, settled after {sorted(self.settled)}")


class ConflictTests(GaleraCase):
    """datastore 8: any number of servers share the database, without a leader; deadlocks are expected, and retried."""

    async def test_three_servers_at_three_nodes(self) -> None:
        """They start at the same time, write the same rows, and want the same messages; each has one result."""
        stores = await self.open(*(node.port for node in self.cluster.nodes), parameters="?wsrep_sync_wait=1")
        load = Load(stores)
        await load.begin()
        await load.run(lambda: len(load.contacts) < 300)
        await load.drain()
        self.assert_accounted(load)
        self.assertEqual(load.failed, {})
        self.assertIn(1213, self.errors, "certification has failed for some")

    async def test_the_limit_of_a_broadcast(self) -> None:
        """Three servers at three nodes share it out, send what they have got, and give back what they do not need."""
        limit, clients = 60, [ClientId(bytes([8] * 7 + [n])) for n in range(90)]
        stores = await self.open(*(node.port for node in self.cluster.nodes), parameters="?wsrep_sync_wait=1")
        for client_id in clients:
            await stores[0].add_client(client_id, ClientData(b"key"))
        await stores[0].create_broadcast(broadcast(1), limit)

        async def hand_out(store: IStore, number: int) -> None:
            waiting = clients[number::3]
            while waiting:
                share = await store.allocate_broadcast(broadcast_id(1), 0.2, 2**62)
                if share is None:
                    return
                batch, waiting = waiting[: share.limit], waiting[share.limit :]
                sends = [send(1000 * number + one[-1], 1, share, one) for one in batch[:: 1 + number % 2]]
                outcomes = await store.save_broadcast_messages(sends)
                self.assertEqual([outcome for outcome in outcomes if outcome is not None], [])
                await store.clean_up_allocation(broadcast_id(1), share.allocation_id, len(sends))

        await gatherResults([Deferred.fromCoroutine(hand_out(store, n)) for n, store in enumerate(stores)])
        [(sent,)] = self.ask("SELECT COUNT(*) FROM broadcast_sent")
        assert isinstance(sent, int)
        self.assertLessEqual(sent, limit)
        [(counted, held, most)] = self.ask("SELECT sent, allocated, message_limit FROM broadcasts")
        self.assertEqual((counted, held, most), (sent, 0, limit), "what is counted is what was sent")

    async def test_numbers_of_rows_come_in_steps(self) -> None:
        """auto_increment_increment is the size of the cluster, and innodb_autoinc_lock_mode is 2.

        Also where the server cannot return them, and when the step changes because a node leaves, and is back.
        """
        first, _, last = self.cluster.nodes
        [store] = await self.open(first.port)
        await store.add_client(C1, ClientData(b"key"))
        start = itertools.count(0, 1000)

        async def assert_numbered() -> None:
            for returns in (True, False):
                with mock.patch.object(mysqlsetup.Server, "returns", returns):
                    await self.assert_numbered(store, next(start))

        await assert_numbered()
        self.assertEqual(self.step(first), 3)
        last.kill()
        await self.until(lambda: self.step(first) == 2)
        await assert_numbered()
        last.start()
        await self.until(self.cluster.is_whole)
        self.assertEqual(self.step(first), 3)
        await assert_numbered()

    def step(self, node: Node) -> int:
        return int(node.query(None, "SELECT @@auto_increment_increment")[0][0])

    async def assert_numbered(self, store: IStore, start: int) -> None:
        contacts = [Contact(C1, start + n, 1, "peer:1") for n in range(1, 50)]
        given = await store.record_contacts(contacts)
        rows = self.ask("SELECT client_contact_id, sent_nonce FROM client_contacts")
        stored = {int.from_bytes(nonce, "little"): f"{row:x}" for row, nonce in rows}  # type: ignore[arg-type]
        self.assertEqual(given, [stored[contact.sent_nonce] for contact in contacts])


class FailOverTests(GaleraCase):
    """Connections, nodes and quorum are lost while all are busy; the next connection goes to another node."""

    async def test_commits_with_any_fate_and_another_node_afterwards(self) -> None:
        """What became of a COMMIT without an answer is known at whatever node: nothing is lost, or done twice."""
        ports = itertools.cycle([node.port for node in self.cluster.nodes])
        relay = Relay(lambda: next(ports))
        self.addCleanup(relay.close)
        stores = await self.open(relay.port, relay.port)
        load = Load(stores)
        await load.begin()
        chance = random.Random(1)
        relay.fate = lambda: chance.choice(["before", "after", "meanwhile", *["pass"] * 12])
        await load.run(lambda: len(load.contacts) < 180)
        relay.fate = lambda: "pass"
        self.assertGreater(relay.broken, 10)
        await load.drain()
        self.assertEqual(load.failed, {})
        self.assert_accounted(load)
        self.assertGreater(len(self.settled), 5)

    async def test_the_node_that_all_use_is_killed(self) -> None:
        """Through HAProxy, with the example of doc/examples: nobody is told of a failure."""
        self.patch(mysql, "RETRY_TIME", 60.0)
        balancer = self.balancer()
        stores = await self.open(balancer, balancer)
        load = Load(stores)
        await load.begin()
        first = self.cluster.nodes[0]
        state = {"killed": 0, "after": 0}

        def going() -> bool:
            done = len(load.contacts)
            if done >= 60 and not state["killed"]:
                first.kill()
                state["killed"] = done
            return done < 60 or done < state["killed"] + 100

        await load.run(going)
        first.start()
        await self.until(self.cluster.is_whole)
        await load.drain()
        self.assertEqual(load.failed, {})
        self.assert_accounted(load)

    async def test_a_node_without_quorum(self) -> None:
        """Two of three nodes hang, and come back: error 1047, as long as it lasts, is a wait, and no more."""
        self.patch(mysql, "RETRY_TIME", 60.0)
        self.patch(mysql, "SETTLE_TIME", 90.0)
        first, *others = self.cluster.nodes
        [store] = await self.open(first.port)
        load = Load([store])
        await load.begin()
        hung = 0.0

        def going() -> bool:
            nonlocal hung
            if len(load.contacts) >= 60 and not hung:
                hung = time.monotonic()
                for node in others:
                    node.signal(signal.SIGSTOP)
            return len(load.contacts) < 110

        done = Deferred.fromCoroutine(load.run(going))
        await self.until(lambda: first.status("wsrep_cluster_status") == "non-Primary")
        await deferLater(reactor, 1)  # type: ignore[arg-type]
        for node in others:
            node.signal(signal.SIGCONT)
        await done
        await self.until(self.cluster.is_whole)
        await load.drain()
        self.assertEqual(load.failed, {})
        self.assert_accounted(load)
        self.assertIn(1047, self.errors + self.settled + self.refused)
