"""``fleetspeak retention``, as an operator runs it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.records import ClientData
from fleetspeak.server.retention import LEASE_NAME
from fleetspeak.testing.storecontract.base import C1, from_client, poll, success
from tests.mariadb import the_server
from tests.programs import Program, eventually
from tests.store.doubles import ToldStore

PROGRAM = str(Path(sys.executable).parent / "fleetspeak")
DAY = 86_400
OLD = 10


class RetentionTests(SynchronousTestCase):
    def setUp(self) -> None:
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.path = Path(scratch.name) / "server.sqlite"
        now = time.time()
        self.at = now - OLD * DAY
        store = ToldStore(str(self.path), now_ns=lambda: int(self.at * 1e9), uniform=lambda: 0.5)
        self.successResultOf(store.open())
        store.add_client(C1, ClientData(b"key"))
        messages = []
        for number in range(1, 1001):
            message = from_client(number, created=self.at)
            if number > 10:
                message.result.CopyFrom(success(self.at))
            messages.append(message)
        store.store_messages(messages)
        store.record_contacts([poll()])
        store.perform()
        self.at = now
        store.record_contacts([poll()])
        store.perform()
        self.store = store
        self.addCleanup(store.close)

    def run_it(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        argv = [PROGRAM, "retention", f"--database-path={self.path}", *words]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(ended.returncode, status, ended.stderr)
        self.assertNotIn("Traceback", ended.stderr)
        return ended

    def rows(self, table: str) -> int:
        with sqlite3.connect(self.path) as connection:
            [(count,)] = connection.execute(f"SELECT COUNT(*) FROM {table}")
        connection.close()
        return int(count)

    def test_counts_and_deletes(self) -> None:
        words = ("--messages=7d", "--contacts=7d", "--clients=90d")
        counted = self.run_it(*words, "--dry-run")
        self.assertRegex(counted.stdout, r"(?m)^messages +messages +990$")
        self.assertRegex(counted.stdout, r"(?m)^991 rows would be deleted$")
        as_json = json.loads(self.run_it(*words, "--dry-run", "--json").stdout)
        expected = {"messages": {"messages": 990}, "contacts": {"client_contacts": 1}}
        self.assertEqual({kind: rows for kind, rows in as_json["would_delete"].items() if rows}, expected)
        self.assertEqual((self.rows("messages"), self.rows("client_contacts")), (1000, 2))

        deleted = json.loads(self.run_it(*words, "--json", "--fast").stdout)
        self.assertEqual(deleted, {"deleted": {"client_contacts": 1, "messages": 990}})
        self.assertEqual((self.rows("messages"), self.rows("client_contacts"), self.rows("clients")), (10, 1, 1))
        self.assertIn("0 rows deleted", self.run_it(*words).stdout)
        self.assertRegex(self.run_it("--pending-messages=9d").stdout, r"(?m)^messages +10$")
        self.assertEqual(self.rows("pending_messages"), 0)

    def test_indexes_on_request(self) -> None:
        self.assertIn("no indexes", self.run_it("--create-indexes", "--dry-run").stderr)
        made = self.run_it("--create-indexes")
        self.assertIn("ON messages (creation_time_seconds", made.stderr)
        self.assertIn("there already", self.run_it("--create-indexes", "--messages=7d").stderr)
        self.assertEqual(self.rows("messages"), 10)

    def test_command_lines_that_are_wrong(self) -> None:
        for words, expected in (
            ((), "nothing to do"),
            (("--dry-run",), "nothing to do"),
            (("--messages=7",), "--messages=7: an age is"),
            (("--messages=0h",), "younger than an hour"),
            (("--files=7d",), "unrecognized"),
        ):
            self.assertIn(expected, self.run_it(*words, status=2).stderr)
        self.path = self.path.with_name("nowhere.sqlite")
        self.assertIn("there is no database", self.run_it("--messages=7d", status=1).stderr)
        self.assertFalse(self.path.exists())

    def lease(self) -> None:
        """Another process prunes."""
        self.store.lease(LEASE_NAME, bytes(16), int((self.at + 3600) * 1e9))
        self.store.perform()

    def test_while_another_process_prunes(self) -> None:
        self.lease()
        self.assertIn("another process prunes", self.run_it("--messages=7d", "--wait=0", status=1).stderr)
        self.assertEqual(self.rows("messages"), 1000)
        self.assertIn("990 rows would", self.run_it("--messages=7d", "--dry-run").stdout)

    def test_ctrl_c(self) -> None:
        self.lease()
        argv = [PROGRAM, "retention", f"--database-path={self.path}", "--messages=7d", "--create-indexes"]
        program = Program("retention", argv)
        self.addCleanup(program.make_sure_it_ended)
        program.wait_for_line("CREATE INDEX")
        self.assertEqual(program.terminate(), 1)
        self.assertEqual(program.lines_matching("Traceback|Unhandled"), [])
        self.assertEqual(self.rows("messages"), 1000)


class KillTests(SynchronousTestCase):
    """Killed on MariaDB in the middle, and started again."""

    OLD_ROWS = 20_000

    def setUp(self) -> None:
        self.database = the_server().new_database()
        self.addCleanup(self.database.drop)
        scratch = TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.components = Path(scratch.name) / "components"
        self.components.write_text(f'mysql_data_source_name: "{self.database.dsn}"')

    def run_it(self, *words: str) -> Program:
        program = Program("retention", [PROGRAM, "retention", f"--components-config={self.components}", *words])
        self.addCleanup(program.make_sure_it_ended)
        return program

    def insert(self, first: int, last: int, seconds: int, processed: str) -> None:
        self.database.query(
            "INSERT INTO messages (message_id, source_service_name, destination_service_name, creation_time_seconds,"
            " creation_time_nanos, processed_time_seconds, processed_time_nanos) SELECT UNHEX(SHA2(seq, 256)), 'a',"
            f" 'b', {seconds}, 0, {processed}, 0 FROM seq_{first}_to_{last}"
        )

    def left(self, where: str) -> int:
        [(count,)] = self.database.query(f"SELECT COUNT(*) FROM messages WHERE {where}")
        assert isinstance(count, int)
        return count

    def test_goes_on(self) -> None:
        self.assertEqual(self.run_it("--create-indexes").wait(60), 0)
        now = int(time.time())
        cutoff = now - 7 * DAY
        self.insert(1, self.OLD_ROWS, cutoff - 600, str(cutoff - 600))
        self.insert(100_001, 100_500, cutoff + 600, str(now))
        self.insert(200_001, 200_500, cutoff - 600, "NULL")
        old = f"creation_time_seconds < {cutoff} AND processed_time_seconds IS NOT NULL"
        left = self.OLD_ROWS
        for _ in range(2):
            program = self.run_it("--messages=7d")
            eventually(lambda before=left: self.left(old) < before, "it has begun", 60)
            program.kill()
            left = self.left(old)
            self.database.query("UPDATE fleetspeak_leases SET until_ns = 0")  # a minute passes
        self.assertEqual(self.run_it("--messages=7d", "--fast").wait(120), 0)
        self.assertEqual(self.left(old), 0)
        self.assertEqual((self.left("processed_time_seconds IS NULL"), self.left("1 = 1")), (500, 1000))
