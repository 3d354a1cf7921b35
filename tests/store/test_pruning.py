"""Pruning, as far as it depends on the database: plans, locks, foreign keys, and room on the disk."""

from __future__ import annotations

from typing import Any

import pymysql
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fleetspeak.records import ClientData, Prunable, Prune, Pruned
from fleetspeak.store.sql import pruning
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.timing import Timing
from fleetspeak.testing.storecontract.base import C1, SECOND, from_client, message_id, poll, success, to_client
from fleetspeak.testing.storecontract.retention import DAY, NOW, WEEK_AGO, RetentionContract
from fleetspeak.wire import dsn
from tests.mariadb import the_server
from tests.store.doubles import ToldStore
from tests.store.test_mysql import MysqlCase, ToldMysqlStore

OLD = NOW - 30 * DAY


class WithoutCascadesContract(RetentionContract, TestCase):
    """The tables of a Go server before 2024-04 (datastore.md 2): nothing is deleted by the database itself."""

    for name in dir(RetentionContract):
        if name.startswith("test_") and "section_9" not in name:
            locals()[name] = None
    del name

    def make_store(self) -> MysqlStore:
        self.database = the_server().new_database()
        self.addCleanup(self.database.drop)
        return MysqlStore(
            dsn.parse(self.database.dsn), now_ns=self.clock.now_ns, uniform=self.clock.uniform, reactor=reactor
        )

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        keys = self.database.query(
            "SELECT table_name, constraint_name, column_name, referenced_table_name, referenced_column_name"
            " FROM information_schema.key_column_usage WHERE table_schema = DATABASE()"
            " AND referenced_table_name IS NOT NULL"
        )
        self.assertGreater(len(keys), 8)
        for table, name, column, parent, key in keys:
            self.database.query(
                f"ALTER TABLE {table} DROP FOREIGN KEY {name},"
                f" ADD CONSTRAINT {name}_plain FOREIGN KEY ({column}) REFERENCES {parent} ({key})"
            )


def old_message(number: int) -> Any:
    message = from_client(number, created=OLD)
    message.result.CopyFrom(success(OLD))
    return message


class Recorder:
    """A connection that only notes what it is asked."""

    def __init__(self, database: Any) -> None:
        self.dialect = database.dialect
        self._database = database
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def rows(self, sql: str, parameters: Any = ()) -> list[Any]:
        self.asked.append((sql, tuple(parameters)))
        found: list[Any] = self._database.rows(sql, parameters)
        return found


class PlanTests(MysqlCase):
    """No look reads a table from one end to the other."""

    LARGE = 3000
    now = NOW * SECOND

    def statements(self, database: Any, kind: Prunable, position: str) -> list[tuple[str, tuple[Any, ...]]]:
        recorder = Recorder(database)
        database.begin()
        request = Prune(kind, WEEK_AGO, position, rows=20)
        pruning.look(recorder, request, Timing(lambda: NOW * SECOND, lambda: 0.5))  # type: ignore[arg-type]
        database.roll_back()
        return [one for one in recorder.asked if "information_schema" not in one[0] and "pragma" not in one[0]]

    def fill(self, store: Any) -> None:
        self.done(store, store.add_client(C1, ClientData(b"key")))
        for start in range(0, self.LARGE, 500):
            messages = [old_message(number) for number in range(start + 1, start + 501)]
            if start:
                for message in messages:
                    message.creation_time.seconds = message.result.processed_time.seconds = NOW
            self.done(store, store.store_messages(messages))
            self.now = (NOW if start else OLD) * SECOND
            self.done(store, store.record_contacts([poll()] * 500))
        self.now = NOW * SECOND

    def positions(self, store: Any, kind: Prunable) -> list[str]:
        """The beginning, and somewhere in the middle."""
        found = self.done(store, store.prune(Prune(kind, WEEK_AGO, rows=20, dry_run=True)))
        assert found.position
        return ["", found.position]

    def done(self, store: Any, call: Any) -> Any:
        for _ in range(5):
            store.perform()
        return self.successResultOf(call)

    def assert_bounded_mysql(self, store: ToldMysqlStore, kind: Prunable, index: str) -> None:
        for position in self.positions(store, kind):
            for sql, parameters in self.statements(store.databases["store-lister"], kind, position):
                database = store.databases["store-lister"]
                database.begin()
                [plan] = database.rows("EXPLAIN " + sql, parameters)
                database.roll_back()
                self.assertEqual(plan[5], index, (sql, plan))
                self.assertNotIn("filesort", plan[9] or "", (sql, plan))

    def test_mariadb(self) -> None:
        store = self.open(now_ns=lambda: self.now)
        self.fill(store)
        for kind in (Prunable.MESSAGES, Prunable.CONTACTS):
            self.assert_bounded_mysql(store, kind, "PRIMARY")
        self.done(store, store.create_time_indexes())
        for table in ("messages", "client_contacts"):
            self.database.query(f"ANALYZE TABLE {table}")
        self.assert_bounded_mysql(store, Prunable.MESSAGES, "fleetspeak_messages_by_time")
        self.assert_bounded_mysql(store, Prunable.CONTACTS, "fleetspeak_client_contacts_by_time")

    def test_sqlite(self) -> None:
        store = ToldStore(self.mktemp(), now_ns=lambda: self.now, uniform=lambda: 0.5)
        self.successResultOf(store.open())
        self.addCleanup(store.close)
        self.fill(store)
        for expected in ("INTEGER PRIMARY KEY (rowid>?", "INDEX fleetspeak_messages_by_time (creation_time_seconds>?"):
            position = self.positions(store, Prunable.MESSAGES)[1]
            for sql, parameters in self.statements(store.databases["store-lister"], Prunable.MESSAGES, position):
                database = store.databases["store-lister"]
                database.begin()
                plan = " ".join(str(row[3]) for row in database.rows("EXPLAIN QUERY PLAN " + sql, parameters))
                database.roll_back()
                self.assertNotIn("TEMP B-TREE", plan, sql)
                self.assertIn(expected, plan, sql)
            self.done(store, store.create_time_indexes())


class LockTests(MysqlCase):
    """Nobody waits for pruning, and it for nobody."""

    def test_what_others_are_about_to_change_stays(self) -> None:
        store = self.open(now_ns=lambda: NOW * SECOND)
        self.done(store, store.add_client(C1, ClientData(b"key")))
        self.done(store, store.store_messages([to_client(1, created=OLD), to_client(2, created=OLD)]))
        self.database.query(f"UPDATE clients SET last_contact_time = {OLD * SECOND}")
        other = pymysql.connect(unix_socket=str(the_server().socket), user="root", database=self.database.name)
        self.addCleanup(other.close)
        cursor = other.cursor()
        cursor.execute(f"UPDATE clients SET last_contact_time = {NOW * SECOND}")
        cursor.execute(f"SELECT * FROM messages WHERE message_id = X'{message_id(1).hex()}' FOR UPDATE")
        pruned = self.done(store, store.prune(Prune(Prunable.PENDING_MESSAGES, WEEK_AGO)))
        self.assertEqual(pruned, Pruned({"messages": 1, "pending_messages": 1}, None))
        self.assertEqual(self.done(store, store.prune(Prune(Prunable.CLIENTS, WEEK_AGO))), Pruned({}, None))
        other.commit()
        self.assertEqual(self.done(store, store.prune(Prune(Prunable.CLIENTS, WEEK_AGO))), Pruned({}, None))
        self.assertEqual(self.done(store, store.pending_message_count([C1])), 1)

    def done(self, store: Any, call: Any) -> Any:
        for _ in range(5):
            store.perform()
        return self.successResultOf(call)


class RoomTests(SynchronousTestCase):
    def test_sqlite_takes_the_room_again(self) -> None:
        """The file does not shrink, but what comes next goes where the old was."""
        store = ToldStore(self.mktemp(), now_ns=lambda: NOW * SECOND, uniform=lambda: 0.5)
        self.successResultOf(store.open())
        self.addCleanup(store.close)

        def fill(first: int) -> int:
            for start in range(first, first + 4000, 500):
                store.store_messages([old_message(number) for number in range(start, start + 500)])
                store.perform()
            [(pages,)] = store.look("PRAGMA page_count")
            return int(pages)

        before = fill(1)
        for _ in range(4):
            call = store.prune(Prune(Prunable.MESSAGES, WEEK_AGO, rows=2000))
            for _ in range(5):
                store.perform()
            self.successResultOf(call)
        self.assertEqual(store.look("SELECT COUNT(*) FROM messages"), [(0,)])
        self.assertLessEqual(fill(10_000), before * 1.05)
