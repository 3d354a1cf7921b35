"""Issue 4, 3: three servers killed at random never send a broadcast to more clients than its limit."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fleetspeak.records import ClientData
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.sql.store import SqlStore
from fleetspeak.store.sqlite import SqliteStore
from fleetspeak.testing.storecontract.broadcasts import broadcast, broadcast_id
from fleetspeak.wire import dsn
from tests.mariadb import the_server
from tests.programs import Program, eventually
from tests.server.broadcastchild import CLIENTS

SERVERS = 3
KILLS = 12
LIMIT = 200


class CrashTests(TestCase):
    """Processes over one database; those of the last round live later, when what was held by the dead has expired."""

    async def fleet(self, place: str, store: SqlStore, count: Callable[[], int]) -> None:
        await store.open()
        for client_id in CLIENTS:
            await store.add_client(client_id, ClientData(b"key"))
        await store.create_broadcast(broadcast(0), LIMIT)
        chance = random.Random(place)
        servers = [self.server(place) for _ in range(SERVERS)]
        for _ in range(KILLS):
            index = chance.randrange(SERVERS)
            self.let_work(servers[index], chance.randrange(1, 20))
            servers[index].kill()
            self.assertLessEqual(count(), LIMIT)
            servers[index] = self.server(place)
        for server in servers:
            server.kill()
        before = count()
        self.assertTrue(0 < before <= LIMIT, before)
        servers = [self.server(place, hours=1) for _ in range(SERVERS)]
        eventually(lambda: count() >= LIMIT, "what the dead held was sent by others")
        for server in servers:
            self.let_work(server, 20)
            server.kill()
        self.assertEqual(count(), LIMIT)
        sent = await store.sent_broadcasts(CLIENTS)
        self.assertEqual(sum(of_one == [broadcast_id(0)] for of_one in sent.values()), LIMIT)
        self.assertEqual(await store.pending_message_count(CLIENTS), LIMIT, "a message for each, and for nobody else")
        await store.close()

    def server(self, place: str, hours: int = 0) -> Program:
        argv = [sys.executable, "-m", "tests.server.broadcastchild", place, str(hours)]
        program = Program("server", argv, environment={"PYTHONPATH": os.pathsep.join(sys.path)})
        self.addCleanup(program.make_sure_it_ended)
        return program

    def let_work(self, server: Program, rounds: int) -> None:
        before = len(server.lines)
        eventually(lambda: len(server.lines) >= before + rounds, f"{rounds} rounds of a server")

    async def test_on_mariadb(self) -> None:
        database = the_server().new_database()
        self.addCleanup(database.drop)

        def count() -> int:
            [(found,)] = database.query("SELECT COUNT(*) FROM broadcast_sent")
            assert isinstance(found, int)
            return found

        await self.fleet(database.dsn, MysqlStore(dsn.parse(database.dsn), reactor=reactor), count)

    async def test_on_sqlite(self) -> None:
        path = str(Path.cwd() / self.mktemp())

        def count() -> int:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                [(found,)] = connection.execute("SELECT COUNT(*) FROM broadcast_sent").fetchall()
            return int(found)

        await self.fleet(path, SqliteStore(path, reactor=reactor), count)
