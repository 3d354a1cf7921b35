"""What is MySQL's own: taking over tables, faults, several servers at a time."""

from __future__ import annotations

import re
from typing import Any

import pymysql
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ConfigError, InvalidRecord
from fleetspeak.records import Claim, ClientData, Contact, Exchange, Exchanged, Prunable, Prune, Pruned
from fleetspeak.store.sql import mysqlschema, mysqlsetup
from fleetspeak.store.sql.mysql import MysqlDatabase, MysqlStore
from fleetspeak.store.sql.workers import MemoryWorker
from fleetspeak.testing.storecontract.base import C1, C2, failure, from_client, message_id, numbers, poll, to_client
from fleetspeak.wire import dsn
from tests.mariadb import Database, the_server

UPSTREAM_INDEX = "INDEX destination_client_id (destination_client_id)"


class ToldMysqlStore(MysqlStore):
    """A store whose workers do nothing until they are told."""

    def __init__(self, source: str, **kwargs: Any) -> None:
        self.workers: dict[str, MemoryWorker] = {}
        self.databases: dict[str, MysqlDatabase] = {}
        super().__init__(dsn.parse(source), make_worker=self._make, **kwargs)

    def _make(self, name: str, database: Any) -> MemoryWorker:
        self.databases[name] = database
        self.workers[name] = MemoryWorker(name, database)
        return self.workers[name]

    @property
    def writer(self) -> MysqlDatabase:
        return self.databases["store-writer"]

    def write(self) -> bool:
        """Carry out one batch of what changes something."""
        return self.workers["store-writer"].perform()

    def perform(self) -> None:
        """Carry out everything that waits: what changes something first."""
        busy = True
        while busy:  # what is carried out may ask for more
            busy = False
            for worker in self.workers.values():
                while worker.perform():
                    busy = True


class MysqlCase(SynchronousTestCase):
    """A test with an empty database."""

    def setUp(self) -> None:
        self.database: Database = the_server().new_database()
        self.addCleanup(self.database.drop)

    def open(self, source: str = "", **kwargs: Any) -> ToldMysqlStore:
        store = ToldMysqlStore(source or self.database.dsn, **kwargs)
        self.successResultOf(store.open())
        self.addCleanup(store.close)
        return store

    def done(self, store: ToldMysqlStore, call: Any) -> Any:
        """What a call gives once everything that waits is carried out."""
        store.perform()
        return self.successResultOf(call)


class SchemaTests(MysqlCase):
    """The tables: upstream's, whoever made them."""

    def columns(self) -> dict[str, list[tuple[object, ...]]]:
        found: dict[str, list[tuple[object, ...]]] = {}
        for table, *column in self.database.query(
            "SELECT table_name, column_name, column_type, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position"
        ):
            found.setdefault(str(table), []).append(tuple(column))
        return found

    def make(self, *changes: tuple[str, str, str]) -> None:
        """Make the tables as upstream does, with changes: table, pattern, replacement."""
        for table, text in mysqlschema.TABLES.items():
            if table.startswith("fleetspeak_"):
                continue
            text = re.sub(r"\n\s*(priority|background|is_blocklisted_source) .*", "", text)
            text = re.sub(r"INDEX destination_client_id\s*\(.*\)", UPSTREAM_INDEX, text)
            text = re.sub(r"INDEX fleetspeak_due.*", "", text)
            for of_table, pattern, replacement in changes:
                if of_table in (table, "*"):
                    text = re.sub(pattern, replacement, text)
            self.database.query(f"CREATE TABLE {table} ({text})")

    def assert_taken_over(self) -> None:
        """A store works on the tables that are there, and they are those of a new database, but for the order."""
        store = self.open()
        self.done(store, store.add_client(C1, ClientData(b"key")))
        message = to_client(1)
        message.data.value = bytes(100_000)
        message.annotations.entries.add(key="k", value="v")
        message.priority, message.background = message.HIGH, True
        self.done(store, store.store_messages([message]))
        self.assertEqual(self.done(store, store.get_messages([message_id(1)], True)), [message])
        self.successResultOf(store.close())
        taken_over = {table: sorted(map(str, columns)) for table, columns in self.columns().items()}
        fresh = the_server().new_database()
        self.addCleanup(fresh.drop)
        self.database, old = fresh, self.database
        self.successResultOf(self.open().close())
        self.assertEqual(taken_over, {table: sorted(map(str, columns)) for table, columns in self.columns().items()})
        self.database = old
        self.assertEqual(mysqlschema.plan(self.look()), mysqlschema.Plan())

    def look(self) -> mysqlschema.Found:
        with pymysql.connect(
            unix_socket=str(the_server().socket), user="root", database=self.database.name
        ) as connection:
            return mysqlsetup.look(connection)

    def test_a_new_database(self) -> None:
        self.assert_taken_over()

    def test_the_usage_records_keep_15_columns_in_order(self) -> None:
        """Upstream's servers insert into them by position."""
        self.open()
        columns = [name for name, *_ in self.columns()["client_resource_usage_records"]]
        self.assertEqual(len(columns), 15)
        self.assertEqual(
            (columns[0], columns[1], columns[5], columns[-1]), ("client_id", "scope", "server_timestamp", "max_num_fds")
        )

    def test_tables_of_upstream(self) -> None:
        self.make()
        self.assert_taken_over()

    def test_section_2_before_2025_12_no_destination_of_broadcasts(self) -> None:
        self.make(("broadcasts", r"\n\s*destination_service_name .*", ""))
        self.assert_taken_over()
        self.assertEqual(self.columns()["broadcasts"][2][0], "destination_service_name")

    def test_section_2_before_2024_04_foreign_keys_without_cascade(self) -> None:
        self.make(("*", r"CONSTRAINT \w+\s+", ""), ("*", " ON DELETE CASCADE", ""))
        store = self.open()
        self.done(store, store.exchange([Exchange([from_client(1)], poll(), new_client=ClientData(b"key"))]))
        self.assert_taken_over_cascades()

    def assert_taken_over_cascades(self) -> None:
        self.database.query("DELETE FROM clients")
        self.database.query("DELETE FROM messages")
        self.assertEqual(self.database.query("SELECT COUNT(*) FROM client_contacts"), [(0,)])
        self.assertEqual(self.database.query("SELECT COUNT(*) FROM pending_messages"), [(0,)])
        self.assertEqual(self.look().uncascaded, [])

    def test_section_2_before_2023_07_payloads_of_64_kib(self) -> None:
        self.make(("*", "MEDIUMBLOB", "BLOB"))
        self.assert_taken_over()

    def test_section_2_before_2020_10_no_numbers_of_fds(self) -> None:
        self.make(("client_resource_usage_records", r"\n\s*(mean|max)_num_fds .*", ""))
        self.assert_taken_over()

    def test_section_2_before_2019_08_no_annotations(self) -> None:
        self.make(("messages", r"\n\s*annotations .*", ""))
        self.assert_taken_over()

    def test_all_of_them_at_once(self) -> None:
        self.make(
            ("*", r"CONSTRAINT \w+\s+", ""),
            ("*", " ON DELETE CASCADE", ""),
            ("*", "MEDIUMBLOB", "BLOB"),
            ("client_resource_usage_records", r"\n\s*(mean|max)_num_fds .*", ""),
            ("messages", r"\n\s*annotations .*", ""),
            ("broadcasts", r"\n\s*destination_service_name .*", ""),
        )
        self.assert_taken_over()

    def test_section_2_of_2018_ids_as_text_are_refused(self) -> None:
        self.make(("*", r"BINARY\((8|32)\)", r"VARCHAR(64)"))
        self.assert_refused("ids were texts until 2018")

    def test_tables_without_transactions_are_refused(self) -> None:
        self.database.query("CREATE TABLE files (service VARCHAR(128)) ENGINE=MyISAM")
        self.assert_refused("ALTER TABLE files ENGINE=InnoDB")

    def test_a_newer_schema(self) -> None:
        """Is worked on as long as it allows that, and refused when it does not."""
        self.successResultOf(self.open().close())
        self.database.query("INSERT INTO fleetspeak_schema VALUES (8, 1)")
        self.successResultOf(self.open().close())
        self.database.query("INSERT INTO fleetspeak_schema VALUES (9, 7)")
        self.assert_refused("changed by a newer version of this program")

    def assert_refused(self, text: str, source: str = "") -> str:
        error = self.failureResultOf(ToldMysqlStore(source or self.database.dsn).open(), ConfigError).value
        self.assertIn(text, str(error))
        return str(error)

    def test_migrations_follow_in_order(self) -> None:
        """Numbered steps, each carried out once, with the version in a table of ours."""
        self.successResultOf(self.open().close())
        steps = (("CREATE TABLE IF NOT EXISTS later (a INT)",), ("ALTER TABLE later ADD COLUMN IF NOT EXISTS b INT",))
        self.patch(mysqlschema, "MIGRATIONS", steps)
        self.patch(mysqlschema, "VERSION", 3)
        for _ in range(2):
            self.successResultOf(self.open().close())
            self.assertEqual(len(self.columns()["later"]), 2)
            self.assertEqual(
                self.database.query("SELECT version FROM fleetspeak_schema ORDER BY version"), [(1,), (3,)]
            )

    def user(self, rights: str) -> str:
        """A DSN of a user with so many rights."""
        name = f"u{self.database.name}"
        self.database.query(f"CREATE USER {name}@localhost IDENTIFIED BY 'SECRET'")
        self.addCleanup(self.database.query, f"DROP USER {name}@localhost")
        self.database.query(f"GRANT {rights} ON {self.database.name}.* TO {name}@localhost")
        return f"{name}:SECRET@unix({the_server().socket})/{self.database.name}"

    def test_without_the_right_to_change_tables(self) -> None:
        """It says what to run; once that was done it needs no more rights than those."""
        source = self.user("SELECT, INSERT, UPDATE, DELETE")
        self.make(("messages", r"\n\s*annotations .*", ""))
        text = self.assert_refused("let somebody who may run this", source)
        self.assertNotIn("SECRET", text)
        statements = text.partition("\n")[2]
        self.assertIn("ALTER TABLE messages ADD COLUMN annotations BLOB", statements)
        for statement in statements.split(";\n"):
            self.database.query(statement.removesuffix(";"))
        store = self.open(source)
        self.done(store, store.store_messages([to_client(1)]))

    def test_without_the_right_to_make_indexes(self) -> None:
        """It says what to run."""
        self.successResultOf(self.open().close())
        store = self.open(self.user("SELECT, INSERT, UPDATE, DELETE"))
        call = store.create_time_indexes()
        store.perform()
        text = str(self.failureResultOf(call, InvalidRecord).value)
        self.assertIn("let somebody who may run: CREATE INDEX fleetspeak_messages_by_time ON messages", text)
        self.assertNotIn("SECRET", text)

    def test_tables_from_before_there_was_retention(self) -> None:
        self.make(("broadcasts", r"\n\s*ended_time .*", ""))
        store = self.open()
        call = store.prune(Prune(Prunable.BROADCASTS, 1))
        for _ in range(3):
            store.perform()
        self.assertEqual(self.successResultOf(call), Pruned({}, None))

    def test_a_wrong_password(self) -> None:
        source = self.user("SELECT").replace("SECRET", "GUESS")
        self.assertNotIn("GUESS", self.assert_refused("Access denied for user", source))

    def test_a_database_that_is_not_there(self) -> None:
        self.assert_refused("CREATE DATABASE nowhere", f"root@unix({the_server().socket})/nowhere")

    def test_no_server(self) -> None:
        self.assert_refused("cannot be opened", "root@tcp(127.0.0.1:1)/x")

    def test_a_mode_that_cuts_names_is_refused(self) -> None:
        self.assert_refused("must be a strict one", self.database.dsn + "?sql_mode=%27%27")

    def test_an_old_character_set(self) -> None:
        """A database of latin1 works; what it cannot hold is refused, alone."""
        self.database.drop()
        the_server().query(None, f"CREATE DATABASE {self.database.name} CHARACTER SET latin1")
        store = self.open()
        strange = from_client(1)
        strange.message_type = "日本"
        calls = [store.exchange([Exchange([message])]) for message in (from_client(2), strange, from_client(3))]
        store.perform()
        outcomes = [self.successResultOf(call)[0] for call in calls]
        self.assertIsInstance(outcomes.pop(1), InvalidRecord)
        self.assertEqual([type(outcome) for outcome in outcomes], [Exchanged, Exchanged])


class ServerTests(SynchronousTestCase):
    """What a server is, by the version it names."""

    def test_versions(self) -> None:
        for version, skips, returns in [
            ("10.11.19-MariaDB-0+deb12u1", True, True),
            ("5.5.5-10.6.1-MariaDB-log", True, True),
            ("10.5.9-MariaDB", False, True),
            ("10.4.1-MariaDB", False, False),
            ("8.0.0-dmr", False, False),
            ("8.0.36", True, False),
            ("8.4.1-commercial", True, False),
            ("5.7.44-log", False, False),
            ("8.0.11-TiDB-v7.5.1", False, False),
            ("8.0.30-Vitess", True, False),
        ]:
            server = mysqlsetup.Server(version)
            self.assertEqual((server.skips_locked, server.returns), (skips, returns), version)


class RowTests(MysqlCase):
    """What the columns hold, and what they do not."""

    def test_numbers_of_rows_with_steps(self) -> None:
        """In a cluster a server gives every third number, say; with and without RETURNING."""
        for returns in (True, False):
            store = self.open(self.database.dsn + "?auto_increment_increment=3&auto_increment_offset=2")
            if not returns:
                store.writer._server = mysqlsetup.Server("8.0.36", increment=3)
            else:
                self.done(store, store.add_client(C1, ClientData(b"key")))
            contacts = [Contact(C1, number, number, "a") for number in range(7)]
            outcomes = self.done(store, store.record_contacts(contacts))
            entries = self.done(store, store.client_contacts(C1, 0, 100))[-7:]
            self.assertEqual([f"{entry.row:x}" for entry in entries], outcomes)
            self.assertEqual([entry.contact.sent_nonce for entry in entries], list(range(7)))

    def test_a_long_source_message_id_is_cut(self) -> None:
        store = self.open()
        message = from_client(1)
        message.source_message_id = b"0123456789abcdefgh"
        self.done(store, store.store_messages([message, from_client(2)]))
        [read] = self.done(store, store.get_messages([message_id(1)], False))
        self.assertEqual(read.source_message_id, b"0123456789abcdef")

    def test_a_strange_clock_is_left_out(self) -> None:
        """Its column has no sign."""
        store = self.open()
        self.done(store, store.add_client(C1, ClientData(b"key")))
        contact = Contact(C1, 1, 1, "a")
        clocked = Contact(C1, 1, 1, "a", clock=failure(1).processed_time)
        assert clocked.clock is not None
        for seconds, nanos, kept in [(-1, 0, False), (5, -1, False), (5, 6, True)]:
            clocked.clock.seconds, clocked.clock.nanos = seconds, nanos
            self.done(store, store.record_contacts([contact, clocked]))
            [client] = self.done(store, store.list_clients([C1]))
            self.assertEqual(client.HasField("last_clock"), kept)

    def test_a_batch_that_is_longer_than_a_packet(self) -> None:
        """Goes in several statements; a row that is too long for any is refused, alone."""
        store = self.open(self.database.dsn + "?maxAllowedPacket=300000")
        sent = [to_client(number) for number in range(12)]
        for message in sent:
            message.data.value = bytes(50_000)
        sent[5].data.value = bytes(250_000)
        calls = [store.store_messages([message]) for message in sent]
        store.perform()
        self.failureResultOf(calls.pop(5), InvalidRecord)
        for call in calls:
            self.successResultOf(call)
        claimed = self.done(store, store.client_messages_for_processing([Claim(C1)]))
        self.assertEqual(numbers(claimed[0]), [number for number in range(12) if number != 5])

    def test_the_claim_uses_its_index(self) -> None:
        """However many messages a client was ever sent."""
        store = self.open()
        done = [to_client(number) for number in range(200)]
        for message in done:
            message.result.CopyFrom(failure(1))
        self.done(store, store.store_messages([*done, to_client(500), to_client(501, C2)]))
        before = self.reads(store)
        claimed = self.done(store, store.client_messages_for_processing([Claim(C1)]))
        self.assertEqual(numbers(claimed[0]), [500])
        self.assertLess(self.reads(store) - before, 40)

    def reads(self, store: ToldMysqlStore) -> int:
        rows = store.writer._send(b"SHOW SESSION STATUS LIKE 'Handler_read%'")
        return sum(int(value) for _, value in rows)
