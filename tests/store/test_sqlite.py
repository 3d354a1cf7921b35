"""The SQLite store as such: its file, its batches, and what happens when the disk fails."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ConfigError, InvalidRecord, NotFound, StoreError
from fleetspeak.records import Ack, Claim, ClientData, Exchange, Exchanged, ResultUpdate
from fleetspeak.store.sql import claims, groupcommit, pending, sqlite
from fleetspeak.store.sql.groupcommit import Unavailable
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    SECOND,
    from_client,
    message_id,
    numbers,
    poll,
    success,
    to_client,
)
from fleetspeak.testing.storecontract.broadcasts import broadcast
from tests.store.doubles import TestableDatabase, ToldStore

COLUMNS = {
    "clients": "client_id client_key blacklisted last_contact_time last_contact_address last_contact_streaming_to"
    " last_clock_seconds last_clock_nanos",
    "client_labels": "client_id service_name label",
    "client_contacts": "client_contact_id client_id time sent_nonce received_nonce address",
    "client_resource_usage_records": "client_id scope pid process_start_time client_timestamp server_timestamp"
    " process_terminated mean_user_cpu_rate max_user_cpu_rate mean_system_cpu_rate max_system_cpu_rate"
    " mean_resident_memory_mib max_resident_memory_mib mean_num_fds max_num_fds",
    "messages": "message_id source_client_id source_service_name source_message_id destination_client_id"
    " destination_service_name message_type creation_time_seconds creation_time_nanos processed_time_seconds"
    " processed_time_nanos validation_info failed failed_reason annotations"
    " priority background is_blocklisted_source",
    "pending_messages": "for_server message_id retry_count scheduled_time data_type_url data_value",
    "client_contact_messages": "client_contact_id message_id",
    "broadcasts": "broadcast_id source_service_name destination_service_name message_type expiration_time_seconds"
    " expiration_time_nanos data_type_url data_value sent allocated message_limit group_name paused_limit max_errors"
    " ended_time",
    "broadcast_labels": "broadcast_id service_name label",
    "broadcast_allocations": "broadcast_id allocation_id sent message_limit expiration_time_seconds"
    " expiration_time_nanos",
    "broadcast_sent": "client_id broadcast_id message_id",
    "files": "service name modified_time_nanos data",
    "fleetspeak_audit": "number time caller address role method request outcome detail duration",
    "fleetspeak_leases": "name holder until_ns state",
    "fleetspeak_settings": "name value",
}


class StoreCase(SynchronousTestCase):
    """A test with an open store that does what it is told."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        self.now = 100_000 * SECOND
        self.store = ToldStore(self.path, now_ns=lambda: self.now, uniform=lambda: 0.5)
        self.successResultOf(self.store.open())
        self.addCleanup(self.store.close)

    def done(self, call: Deferred[object]) -> object:
        """Have everything carried out; what `call` gave."""
        self.store.perform()
        return self.successResultOf(call)


class FileTests(SynchronousTestCase):
    """The file, and others' files."""

    def open(self, path: str) -> ToldStore:
        store = ToldStore(path)
        self.successResultOf(store.open())
        self.addCleanup(store.close)
        return store

    def refused(self, path: str) -> str:
        """Why it cannot be opened; the text names the file."""
        store = ToldStore(path)
        error = self.failureResultOf(store.open(), ConfigError).value
        self.successResultOf(store.close())
        self.assertIn(path, str(error))
        return str(error)

    def test_only_the_owner_reads_it(self) -> None:
        """Mode 0600, for its companions too, whatever the umask."""
        path = self.mktemp()
        before = os.umask(0)
        try:
            store = self.open(path)
        finally:
            os.umask(before)
        self.assertEqual(store.look("PRAGMA journal_mode"), [("wal",)])
        for suffix in ("", "-wal", "-shm"):
            self.assertEqual(stat.S_IMODE(os.stat(path + suffix).st_mode), 0o600, suffix)

    def test_durability(self) -> None:
        """A commit is on the disk, and references are kept."""
        store = self.open(self.mktemp())
        self.assertEqual(store.look("PRAGMA synchronous"), [(2,)])
        self.assertEqual(store.look("PRAGMA foreign_keys"), [(1,)])

    def test_it_is_opened_again(self) -> None:
        path = self.mktemp()
        store = self.open(path)
        store.store_messages([from_client(1)])
        self.successResultOf(store.close())
        self.assertEqual(os.listdir(os.path.dirname(path)), [os.path.basename(path)], "the log is folded in")
        store = self.open(path)
        read = store.get_messages([message_id(1)], want_data=True)
        store.perform()
        self.assertEqual(self.successResultOf(read), [from_client(1)])

    def test_odd_names(self) -> None:
        """A name is a file's name, whatever SQLite could read into it."""
        folder = self.mktemp()
        os.mkdir(folder)
        for name in (":memory:", "a b?mode=memory", "100%#.sqlite"):
            store = self.open(os.path.join(folder, name))
            self.assertTrue(store.look("SELECT * FROM sqlite_master"))
            self.assertTrue(os.path.exists(os.path.join(folder, name)))

    def test_no_folder(self) -> None:
        path = os.path.join(os.path.abspath(self.mktemp()), "fleetspeak.sqlite")
        self.assertIn("there is no folder", self.refused(path))

    def test_not_writable(self) -> None:
        self.assertIn("must be able to read and write it", self.refused("/proc/fleetspeak.sqlite"))
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        self.assertIn("must be able to read and write it", self.refused(path))

    def test_not_a_database(self) -> None:
        path = os.path.abspath(self.mktemp())
        Path(path).write_bytes(b"something else\n" * 1000)
        self.assertIn("is not a SQLite database", self.refused(path))
        self.assertEqual(Path(path).read_bytes(), b"something else\n" * 1000)

    def test_a_damaged_database(self) -> None:
        path = os.path.abspath(self.mktemp())
        store = self.open(path)
        self.successResultOf(store.close())
        content = bytearray(Path(path).read_bytes())
        content[100:4096] = b"\xff" * 3996
        Path(path).write_bytes(content)
        self.assertIn("damaged", self.refused(path))

    def test_a_database_of_another_program(self) -> None:
        path = os.path.abspath(self.mktemp())
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE clients (name TEXT)")
        other.close()
        self.assertIn("of another program", self.refused(path))

    def test_a_database_of_a_newer_version(self) -> None:
        path = os.path.abspath(self.mktemp())
        self.successResultOf(self.open(path).close())
        newer = sqlite3.connect(path)
        newer.execute("PRAGMA user_version = 1000")
        newer.close()
        self.assertIn("newer version", self.refused(path))

    def test_an_older_database_is_migrated(self) -> None:
        """Only what is missing is done, and what was stored is kept."""
        path = self.mktemp()
        store = self.open(path)
        store.store_messages([from_client(1)])
        self.successResultOf(store.close())
        added = ("CREATE TABLE added (id INTEGER)",)
        with mock.patch.multiple(sqlite, MIGRATIONS=(*sqlite.MIGRATIONS, added), VERSION=sqlite.VERSION + 1):
            store = self.open(path)
            self.assertEqual(store.look("PRAGMA user_version"), [(sqlite.VERSION,)])
        self.assertEqual(store.look("SELECT COUNT(*) FROM added"), [(0,)])
        self.assertEqual(store.look("SELECT COUNT(*) FROM messages"), [(1,)])

    def test_a_database_of_version_1_gets_broadcasts(self) -> None:
        path = self.mktemp()
        with mock.patch.multiple(sqlite, MIGRATIONS=sqlite.MIGRATIONS[:1], VERSION=1):
            store = self.open(path)
            store.store_messages([from_client(1)])
            self.successResultOf(store.close())
        store = self.open(path)
        self.assertEqual(store.look("SELECT COUNT(*) FROM broadcasts"), [(0,)])
        self.assertEqual(store.look("SELECT COUNT(*) FROM messages"), [(1,)])

    def test_a_database_of_version_3_gets_an_audit_trail(self) -> None:
        path = self.mktemp()
        with mock.patch.multiple(sqlite, MIGRATIONS=sqlite.MIGRATIONS[:3], VERSION=3):
            store = self.open(path)
            store.store_messages([from_client(1)])
            self.successResultOf(store.close())
        store = self.open(path)
        self.assertEqual(store.look("SELECT COUNT(*) FROM fleetspeak_audit"), [(0,)])
        self.assertEqual(store.look("SELECT COUNT(*) FROM messages"), [(1,)])

    def test_a_database_of_version_4_gets_leases_and_ends_of_broadcasts(self) -> None:
        path = self.mktemp()
        with mock.patch.multiple(sqlite, MIGRATIONS=sqlite.MIGRATIONS[:4], VERSION=4):
            store = self.open(path)
            store.store_messages([from_client(1)])
            store.create_broadcast(broadcast(1), 10)
            self.successResultOf(store.close())
        store = self.open(path)
        self.assertEqual(store.look("SELECT COUNT(*) FROM fleetspeak_leases"), [(0,)])
        self.assertEqual(store.look("SELECT message_limit, ended_time FROM broadcasts"), [(10, None)])

    def test_a_database_of_version_5_gets_settings(self) -> None:
        path = self.mktemp()
        with mock.patch.multiple(sqlite, MIGRATIONS=sqlite.MIGRATIONS[:5], VERSION=5):
            store = self.open(path)
            store.store_messages([from_client(1)])
            self.successResultOf(store.close())
        store = self.open(path)
        self.assertEqual(store.look("SELECT COUNT(*) FROM fleetspeak_settings"), [(0,)])
        self.assertEqual(store.look("SELECT COUNT(*) FROM messages"), [(1,)])

    def test_a_migration_that_fails_changes_nothing(self) -> None:
        path = os.path.abspath(self.mktemp())
        self.successResultOf(self.open(path).close())
        broken = ("CREATE TABLE added (id INTEGER)", "SELECT nonsense")
        with mock.patch.multiple(sqlite, MIGRATIONS=(*sqlite.MIGRATIONS, broken), VERSION=sqlite.VERSION + 1):
            self.refused(path)
        self.assertEqual(self.open(path).look("SELECT * FROM sqlite_master WHERE name = 'added'"), [])

    def test_an_old_sqlite(self) -> None:
        with mock.patch.object(sqlite3, "sqlite_version_info", (3, 32, 0)):
            error = self.failureResultOf(ToldStore(self.mktemp()).open(), ConfigError).value
        self.assertIn("too old", str(error))


class SchemaTests(StoreCase):
    """The tables are those that servers share on other databases."""

    def test_tables_and_columns(self) -> None:
        tables = self.store.look("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        self.assertEqual({name for (name,) in tables}, set(COLUMNS))
        for table, columns in COLUMNS.items():
            found = [row[1] for row in self.store.look(f"PRAGMA table_info({table})")]
            self.assertEqual(found, columns.split(), table)

    def test_how_values_are_stored(self) -> None:
        """NULL for what is missing, binary ids, little-endian nonces, microseconds."""
        self.store.add_client(C1, ClientData(b"key"))
        self.store.exchange([Exchange([from_client(1)], poll())])
        self.store.store_messages([to_client(2)])
        self.store.perform()
        self.assertEqual(
            self.store.look("SELECT source_client_id, destination_client_id, failed FROM messages ORDER BY message_id"),
            [(C1, None, None), (None, C1, None)],
        )
        self.assertEqual(
            self.store.look("SELECT for_server, retry_count, scheduled_time FROM pending_messages ORDER BY message_id"),
            [(1, 0, (100_000 + 90) * 10**6), (0, 0, 100_000 * 10**6)],
        )
        self.assertEqual(
            self.store.look("SELECT client_contact_id, time, sent_nonce, received_nonce, address FROM client_contacts"),
            [(1, self.now, b"\x2a" + bytes(7), b"\x2b" + bytes(7), "127.0.0.1")],
        )
        self.assertEqual(self.store.look("SELECT last_contact_streaming_to FROM clients"), [(None,)])
        self.assertEqual(self.store.look("SELECT * FROM client_contact_messages"), [(1, message_id(1))])

    def test_a_message_with_a_result_is_one_row(self) -> None:
        """It is inserted in its final state: no pending row, no payload."""
        done = from_client(1)
        done.result.CopyFrom(success(7))
        self.store.store_messages([done])
        with mock.patch.object(TestableDatabase, "run", autospec=True, side_effect=TestableDatabase.run) as run:
            self.store.perform()
        statements = [call.args[1].split()[0] for call in run.call_args_list]
        self.assertEqual(statements, ["BEGIN", "SAVEPOINT", "INSERT", "RELEASE", "COMMIT"])
        self.assertEqual(self.store.look("SELECT COUNT(*) FROM pending_messages"), [(0,)])

    def test_links_go_with_their_contact(self) -> None:
        self.store.add_client(C1, ClientData(b"key"))
        self.store.exchange([Exchange([from_client(1), to_client(2)], poll())])
        self.store.perform()
        self.store.look("DELETE FROM clients")
        for table in ("client_contacts", "client_contact_messages"):
            self.assertEqual(self.store.look(f"SELECT COUNT(*) FROM {table}"), [(0,)], table)
        self.store.look("DELETE FROM messages")
        self.assertEqual(self.store.look("SELECT COUNT(*) FROM pending_messages"), [(0,)])

    def test_claims_use_their_index(self) -> None:
        """However many messages a client was ever sent, a look costs what is pending."""
        plan = self.store.look("EXPLAIN QUERY PLAN " + claims._look_text("CROSS JOIN").replace("?", "1"))
        steps = " ".join(row[3] for row in plan)
        self.assertIn("SEARCH m USING INDEX messages_pending_for_client (destination_client_id=?)", steps)
        self.assertIn("SEARCH p USING INDEX sqlite_autoindex_pending_messages_1", steps)
        self.assertNotIn("TEMP B-TREE", steps)

    def test_overdue_messages_use_their_index(self) -> None:
        seen: list[str] = []
        with mock.patch.object(TestableDatabase, "rows", lambda _, sql, parameters=(): seen.append(sql) or []):
            self.store.next_overdue()
            self.store.overdue_messages(1)
            self.store.overdue_messages(1, {"full": 0})
            self.store.dead_message_counts()
            self.store.perform()
        for sql in seen:
            plan = " ".join(row[3] for row in self.store.look("EXPLAIN QUERY PLAN " + sql.replace("?", "1")))
            self.assertIn("p USING INDEX pending_messages_for_server", plan)
            self.assertIn("sqlite_autoindex_messages_1 (message_id=?)", plan)
            self.assertNotIn("TEMP B-TREE FOR ORDER BY", plan)
        self.assertEqual(len(seen), 4)

    def test_listings_of_pending_messages_use_an_index(self) -> None:
        for sql in ("SELECT message_id FROM messages", "SELECT COUNT(*) FROM messages"):
            plan = self.store.look("EXPLAIN QUERY PLAN " + sql + " WHERE " + pending._OF_CLIENTS.format(keys="1, 2"))
            self.assertIn("messages_pending_for_client", plan[0][3])

    def test_rows_without_their_message_do_no_harm(self) -> None:
        """Somebody pruned by hand, without the references in force: the message may come again."""
        self.store.store_messages([from_client(1)])
        self.store.perform()
        self.store.look("PRAGMA foreign_keys = OFF")
        self.store.look("DELETE FROM messages")
        self.store.look("PRAGMA foreign_keys = ON")
        self.now += 3600 * SECOND
        self.assertIsNone(self.done(self.store.next_overdue()))
        self.assertEqual(self.done(self.store.overdue_messages(10)), [])
        self.assertIsNone(self.done(self.store.store_messages([from_client(1)])))
        self.assertEqual(self.done(self.store.overdue_messages(10)), [from_client(1)])


class BatchTests(StoreCase):
    """What is carried out together."""

    def test_calls_that_wait_are_one_transaction(self) -> None:
        for client_id in (C1, C2):
            self.store.add_client(client_id, ClientData(b"key"))
        self.store.perform()
        calls = [self.store.exchange([Exchange([from_client(n)], poll((C1, C2)[n % 2]))]) for n in range(64)]
        with mock.patch.object(TestableDatabase, "run", autospec=True, side_effect=TestableDatabase.run) as run:
            self.assertTrue(self.store.write())
            self.assertFalse(self.store.write())
        verbs = [call.args[1].split()[0] for call in run.call_args_list]
        self.assertEqual(verbs, ["BEGIN", "SAVEPOINT", "UPDATE", "INSERT", "INSERT", "INSERT", "RELEASE", "COMMIT"])
        contact_ids = [outcome.contact_id for call in calls for outcome in self.successResultOf(call)]
        self.assertEqual(contact_ids, [f"{row:x}" for row in range(1, 65)])

    def test_a_caller_gives_up_before_its_call_began(self) -> None:
        kept, given_up = self.store.store_messages([from_client(1)]), self.store.store_messages([from_client(2)])
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.assertIsNone(self.done(kept))
        unknown = self.store.get_messages([message_id(2)], want_data=False)
        self.store.perform()
        self.failureResultOf(unknown, NotFound)

    def test_too_much_waits(self) -> None:
        with mock.patch.object(self.store.workers["store-writer"], "_queue", groupcommit.Queue(max_calls=3)):
            accepted = [self.store.store_messages([from_client(number)]) for number in range(3)]
            refused = self.store.exchange([Exchange([from_client(3)])])
            self.assertIn("overloaded", str(self.failureResultOf(refused, StoreError).value))
            self.store.perform()
        for call in accepted:
            self.successResultOf(call)

    def test_a_message_is_one_snapshot(self) -> None:
        """Whatever happens to it while it waits."""
        message = from_client(1)
        storing = self.store.store_messages([message])
        message.Clear()
        self.done(storing)
        self.assertEqual(self.done(self.store.get_messages([message_id(1)], want_data=True)), [from_client(1)])

    def test_mixed_operations_in_one_transaction(self) -> None:
        """And one of each of them is impossible."""
        self.done(self.store.add_client(C1, ClientData(b"key")))
        self.done(self.store.store_messages([to_client(1), to_client(2), to_client(3)]))
        stored = self.store.store_messages([to_client(4)])
        unlinked = self.store.store_messages([to_client(5)], "99")
        acknowledged = self.store.acknowledge([Ack(C1, [message_id(1)])])
        contacts = self.store.record_contacts([poll(C2), poll(C1)])
        updated = self.store.set_message_results([ResultUpdate(message_id(2), success(1), C1)])
        claimed = self.store.client_messages_for_processing([Claim(C1)])
        added = self.store.add_client(C1, ClientData(b"key"))
        exchanged = self.store.exchange([Exchange(contact=poll(C2)), Exchange(contact=poll(C1))])
        self.store.write()
        self.assertIsNone(self.successResultOf(stored))
        self.failureResultOf(unlinked, NotFound)
        self.assertEqual(self.successResultOf(acknowledged), [None])
        unknown, contact_id = self.successResultOf(contacts)
        self.assertIsInstance(unknown, NotFound)
        self.assertEqual(contact_id, "1")
        self.assertIsNone(self.successResultOf(updated))
        [messages] = self.successResultOf(claimed)
        self.assertEqual(numbers(messages), [3, 4])
        self.failureResultOf(added, StoreError)
        unknown, second = self.successResultOf(exchanged)
        self.assertIsInstance(unknown, NotFound)
        self.assertEqual(second, Exchanged("2", ()))

    def test_values_no_database_holds(self) -> None:
        """They fail their caller only."""
        bad = from_client(1)
        bad.creation_time.seconds = 2**63 - 1
        huge = Exchange(contact=poll(C1), new_client=ClientData("\ud800"))  # type: ignore[arg-type]
        fine = self.store.store_messages([bad])
        refused = self.store.exchange([huge])
        self.store.write()
        self.assertIsNone(self.successResultOf(fine))
        self.assertIsInstance(self.successResultOf(refused)[0], InvalidRecord)


class DiskTests(StoreCase):
    """Robustness: the disk is full, or fails, and then works again."""

    def pages(self) -> int:
        [(pages,)] = self.store.look("PRAGMA page_count")
        assert isinstance(pages, int)
        return pages

    def test_full_disk(self) -> None:
        """Every caller is told, nothing is half stored, and when there is space the store goes on."""
        self.done(self.store.store_messages([from_client(0)]))
        self.store.databases["store-writer"].limit(self.pages())
        large = from_client(1)
        large.data.value = bytes(100_000)
        calls = [self.store.store_messages([large]), self.store.store_messages([from_client(2)])]
        self.store.perform()
        for call in calls:
            self.assertIn("no space is left", str(self.failureResultOf(call, Unavailable).value))
        again = self.store.store_messages([large])
        self.store.perform()
        self.failureResultOf(again, Unavailable)
        self.assertEqual(self.done(self.store.get_messages([message_id(0)], want_data=True)), [from_client(0)])
        self.store.databases["store-writer"].limit(0)
        self.done(self.store.store_messages([large, from_client(2)]))
        self.assertEqual(
            self.done(self.store.get_messages([message_id(1), message_id(2)], want_data=True)), [large, from_client(2)]
        )

    def test_a_transaction_that_cannot_be_committed(self) -> None:
        """What was not committed did not happen."""
        plain = TestableDatabase.commit

        def broken(database: TestableDatabase) -> None:
            raise Unavailable("the disk fails")

        storing = self.store.store_messages([from_client(1)])
        with mock.patch.object(TestableDatabase, "commit", broken):
            self.store.write()
        self.failureResultOf(storing, Unavailable)
        self.assertIs(TestableDatabase.commit, plain)
        self.done(self.store.store_messages([from_client(2)]))
        self.assertEqual(self.store.look("SELECT message_id FROM messages"), [(message_id(2),)])

    def test_another_process_holds_the_lock(self) -> None:
        other = sqlite3.connect(self.path)
        other.execute("BEGIN IMMEDIATE")
        self.store.look("PRAGMA busy_timeout = 1")
        storing = self.store.store_messages([from_client(1)])
        self.store.write()
        self.assertIn("locked", str(self.failureResultOf(storing, Unavailable).value))
        other.close()
        self.done(self.store.store_messages([from_client(1)]))

    def test_the_database_goes_away(self) -> None:
        """A store that cannot reconnect says so, and goes on when it can."""
        self.store.databases["store-writer"].roll_back()
        with mock.patch.object(sqlite3, "connect", side_effect=sqlite3.OperationalError("no such disk")):
            storing = self.store.store_messages([from_client(1)])
            self.store.write()
        self.assertIn("no such disk", str(self.failureResultOf(storing, Unavailable).value))
        self.done(self.store.store_messages([from_client(1)]))

    def test_something_nobody_thought_of(self) -> None:
        """The store lives, and nobody waits for ever."""
        storing = self.store.store_messages([from_client(1)])
        with mock.patch.object(TestableDatabase, "begin", side_effect=ZeroDivisionError):
            self.store.write()
        self.failureResultOf(storing, StoreError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.done(self.store.store_messages([from_client(1)]))
