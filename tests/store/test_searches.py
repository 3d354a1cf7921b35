"""What operators look for is given up when it takes too long, and holds up nobody."""

from __future__ import annotations

import threading
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from fleetspeak.errors import TookTooLong
from fleetspeak.ids import NO_CLIENT
from fleetspeak.listings import ClientCounts, ClientFilter, MessageFilter, MessageState, Span
from fleetspeak.records import ClientData, Exchange
from fleetspeak.store.outcome import only
from fleetspeak.store.sql import messagelists, mysql, sqlite
from fleetspeak.store.sql.calls import plain
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.sql.sqlite import SqliteStore
from fleetspeak.testing.storecontract.base import C1, SECOND, from_client, poll, success
from fleetspeak.wire import dsn
from tests.mariadb import the_server


class SqliteSearchTests(TestCase):
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
        "SELECT 1",
    )

    def make_store(self) -> Any:
        self.patch(sqlite, "SEARCH_TIME", 0.2)
        return SqliteStore(self.mktemp(), reactor=reactor)

    async def setUp(self) -> None:
        self.store = self.make_store()
        await self.store.open()
        self.addCleanup(self.store.close)
        await self.store.add_client(C1, ClientData(b"key"))

    async def test_it_is_given_up(self) -> None:
        """And the next one is carried out, on the same connection."""
        endless, quick = self.endless
        with self.assertRaisesRegex(TookTooLong, "not found within"):
            await plain(self.store._searcher, lambda db: db.rows(endless))
        self.assertEqual(await plain(self.store._searcher, lambda db: db.rows(quick)), [(1,)])
        self.assertEqual(await self.store.client_counts(0), ClientCounts(1, 0, 1))

    async def test_only_its_caller_fails(self) -> None:
        """Not those who asked at the same time."""
        endless = plain(self.store._searcher, lambda db: db.rows(self.endless[0]))
        others = [self.store.client_page(ClientFilter(), NO_CLIENT, 5) for _ in range(3)]
        with self.assertRaises(TookTooLong):
            await endless
        self.assertEqual([len(page) for page in await gatherResults(others)], [1, 1, 1])

    async def test_nobody_waits_for_it(self) -> None:
        """Contacts, clients' files and other lists go on."""
        begun, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        def search(_: object) -> None:
            begun.set()
            release.wait(60)

        searching = plain(self.store._searcher, search)
        await only(self.store.exchange([Exchange([from_client(1)], poll())]))
        await self.store.client_data([C1])
        await self.store.sent_broadcasts([C1])
        await self.store.active_broadcasts()
        await self.store.settings()
        await self.store.store_file("s", "n", b"data")
        await self.store.read_file("s", "n")
        self.assertFalse(searching.called)
        release.set()
        await searching

    async def test_who_has_gone_is_not_searched_for(self) -> None:
        """What waits behind a search is taken back with its caller."""
        release, called = threading.Event(), mock.Mock(return_value=None)
        self.addCleanup(release.set)
        searching = plain(self.store._searcher, lambda _: release.wait(60) and None)
        while self.store._searcher._queue:  # it is being carried out, so the next one waits for the next batch
            await self.store.settings()
        waiting = plain(self.store._searcher, called)
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        release.set()
        await searching
        await self.store.message_page(MessageFilter(), None, 1)
        called.assert_not_called()


class MysqlSearchTests(SqliteSearchTests):
    endless = ("SELECT SLEEP(60), COUNT(*) FROM clients", "SELECT 1")

    def make_store(self) -> Any:
        self.patch(mysql, "SEARCH_TIME", 0.5)
        database = the_server().new_database()
        self.addCleanup(database.drop)
        return MysqlStore(dsn.parse(database.dsn), reactor=reactor)

    async def scanned(self, wanted: MessageFilter) -> set[str]:
        """The tables of which all rows are looked at."""

        def explain(db: Any) -> set[str]:
            explaining = Explaining(db)
            messagelists.page(explaining, wanted, None, 10)
            messagelists.counts(explaining, wanted)
            return explaining.scanned

        return set(await plain(self.store._searcher, explain))

    async def test_what_is_looked_for_by_client_or_state_has_its_index(self) -> None:
        """And what is looked for by time, where somebody made one."""
        contact_id = await only(self.store.record_contacts([poll()]))
        for start in range(0, 2000, 500):
            numbers = range(start, start + 500)
            processed = [from_client(number, created=number + 1) for number in numbers if number % 100]
            for message in processed:
                message.result.CopyFrom(success(1))
            waiting = [from_client(number, created=number + 1) for number in numbers if not number % 100]
            await self.store.store_messages([*processed, *waiting], contact_id if start == 0 else "")
        for state in (MessageState.WAITING, MessageState.SENT, MessageState.DEAD):
            self.assertNotIn("m", await self.scanned(MessageFilter(state=state)), state)
        self.assertNotIn("m", await self.scanned(MessageFilter(client_id=C1)))
        lately = MessageFilter(created=Span(1990 * SECOND, None))
        self.assertIn("m", await self.scanned(lately))
        await self.store.create_time_indexes()
        self.assertNotIn("m", await self.scanned(lately))


class Explaining:
    """A connection that asks the database how it would carry out each look."""

    def __init__(self, db: Any) -> None:
        self.dialect = db.dialect
        self.scanned: set[str] = set()
        self._db = db

    def rows(self, sql: str, parameters: Any = ()) -> list[Any]:
        for _, _, table, kind, *_ in self._db.rows(f"EXPLAIN {sql}", parameters):
            if kind == "ALL":
                self.scanned.add(table)
        return list(self._db.rows(sql, parameters))
