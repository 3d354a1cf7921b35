"""Readiness with a real database that is slow, and one that dies (server-core 10)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fleetspeak.server import health
from fleetspeak.server.health import Readiness
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.sqlite import SqliteStore
from fleetspeak.wire import dsn
from tests.mariadb import MariaDB
from tests.programs import PATIENCE

READY, NOT_READY = "", "the store does not answer"


class ReadinessCase(TestCase):
    async def until(self, readiness: Readiness, expected: str) -> None:
        for _ in range(int(PATIENCE / 0.1)):
            verdict = await readiness.trouble()
            if verdict == expected:
                return
            await deferLater(reactor, 0.1)  # type: ignore[arg-type]
        self.fail(f"it stays with {verdict!r}")


class MariaDbTests(ReadinessCase):
    """One server of its own: it is stopped, and killed."""

    timeout = 6 * PATIENCE

    async def setUp(self) -> None:
        self.server = MariaDB()  # it ends with the thread that starts it
        self.addCleanup(self.server.stop)
        database = self.server.new_database()
        self.store = MysqlStore(dsn.parse(database.dsn_by_tcp()), reactor=reactor)  # type: ignore[arg-type]
        await self.store.open()
        self.readiness = Readiness(self.store, reactor)  # type: ignore[arg-type]
        self.readiness.begin()

    async def test_a_dead_one_and_one_that_is_back(self) -> None:
        await self.until(self.readiness, READY)
        self.server.kill()
        await self.until(self.readiness, NOT_READY)
        self.server.start()
        await self.until(self.readiness, READY)
        await self.store.close()

    async def test_one_that_hangs_is_given_up_in_time_whoever_asks(self) -> None:
        await self.until(self.readiness, READY)
        self.patch(health, "STORE_LIMIT", 0.3)
        self.hang(signal.SIGSTOP)
        self.addCleanup(self.hang, signal.SIGCONT)
        await self.until(self.readiness, NOT_READY)
        many = [Deferred.fromCoroutine(self.readiness.trouble()) for _ in range(50)]
        self.assertEqual({await one for one in many}, {NOT_READY})
        calls = {name: calls for name, (calls, _) in self.store.waiting().items()}
        self.assertEqual(set(calls.values()), {0}, "what was given up does not wait")
        self.hang(signal.SIGCONT)
        await self.until(self.readiness, READY)
        await self.store.close()

    def hang(self, number: signal.Signals) -> None:
        os.kill(self.server.pid, number)


class SqliteTests(ReadinessCase):
    async def test_it_is_ready_and_asking_changes_nothing(self) -> None:
        path = Path(self.mktemp())
        store = SqliteStore(str(path), reactor=reactor)  # type: ignore[arg-type]
        await store.open()
        readiness = Readiness(store, reactor)  # type: ignore[arg-type]
        readiness.begin()
        self.assertEqual(await readiness.trouble(), READY)
        self.assertEqual(await store.list_clients([]), [])
        await store.close()
