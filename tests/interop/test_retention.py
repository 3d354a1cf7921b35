"""Old rows are deleted while the Go server and its client talk on the same database (issue 4, datastore.md 9)."""

from __future__ import annotations

import subprocess
import time

from fleetspeak.store.sql import mysqlschema
from tests.mariadb import the_server
from tests.programs import eventually

from . import peer
from .conversation import Conversation
from .fleet import POLLING, UPSTREAM, Client, Fleet

DAY = 86_400
MONTH_NS = 30 * DAY * 10**9


class RetentionTests(Conversation):
    @classmethod
    def setUpClass(cls) -> None:
        """Each test has a fleet of its own."""

    def setUp(self) -> None:
        self.database = the_server().new_database()
        self.addCleanup(self.database.drop)
        self.fleet = Fleet(UPSTREAM, (UPSTREAM,))  # type: ignore[misc]
        self.addCleanup(self.fleet.clean_up)
        self.fleet.start_operators()
        self.server = self.fleet.server(UPSTREAM, "upstream-server", self.database)  # type: ignore[misc]

    def prune(self, *options: str) -> str:
        argv = [
            *(peer.our_program("fleetspeak"), "retention"),
            *("--components-config", self.server.components, "--messages=7d", "--contacts=7d", "--clients=7d"),
            *("--resource-usage=7d", "--broadcasts=7d", "--fast"),
            *options,
        ]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return ended.stdout

    def age(self) -> None:
        """Let a month pass over all that is done."""
        self.database.query(
            f"UPDATE messages SET creation_time_seconds = creation_time_seconds - {30 * DAY},"
            f" processed_time_seconds = processed_time_seconds - {30 * DAY} WHERE processed_time_seconds IS NOT NULL"
        )
        self.database.query(f"UPDATE client_contacts SET time = time - {MONTH_NS}")

    def add_strangers(self) -> None:
        """Clients that were last there a month ago, with contacts and messages."""
        old = time.time_ns() - MONTH_NS
        numbers = "(SELECT seq FROM seq_1_to_2000) AS numbers"
        self.database.query(
            "INSERT INTO clients (client_id, client_key, blacklisted, last_contact_time)"
            f" SELECT UNHEX(LPAD(HEX(seq), 16, '0')), X'00', 0, {old} FROM {numbers}"
        )
        self.database.query(
            "INSERT INTO client_contacts (client_id, time, sent_nonce, received_nonce)"
            f" SELECT UNHEX(LPAD(HEX(seq), 16, '0')), {old}, X'0000000000000000', X'0000000000000000' FROM {numbers}"
        )
        self.database.query(
            "INSERT INTO messages (message_id, source_client_id, source_service_name, destination_service_name,"
            " creation_time_seconds, creation_time_nanos, processed_time_seconds, processed_time_nanos)"
            f" SELECT UNHEX(SHA2(seq, 256)), UNHEX(LPAD(HEX(seq), 16, '0')), 'a', 'b', {old // 10**9}, 0,"
            f" {old // 10**9}, 0 FROM {numbers}"
        )

    def count(self, table: str) -> int:
        [(count,)] = self.database.query(f"SELECT COUNT(*) FROM {table}")
        assert isinstance(count, int)
        return count

    def test_while_the_go_server_and_its_client_talk(self) -> None:
        client: Client = self.fleet.client(UPSTREAM, "machine", POLLING)
        self.server.start()
        client.start()
        self.await_enrolment(client)
        self.assert_greets(client, "at first")
        self.assert_nothing_pending(self.server, client)
        for occasion in ("once", "twice", "thrice"):
            self.age()
            self.add_strangers()
            self.assertEqual(self.count("clients"), 2001)
            self.prune()
            self.assertEqual(self.count("clients"), 1)
            self.assert_greets(client, occasion)
        self.assert_nothing_pending(self.server, client)
        self.assertLess(self.count("messages"), 100)
        eventually(lambda: self.count("client_contacts") < 50, "only contacts since the last time are there")
        self.assertIn("0 rows would be deleted", self.prune("--dry-run", "--pending-messages=7d"))
        self.prune("--create-indexes")
        self.assert_greets(client, "with indexes")
        self.assertEqual(self.server.program.lines_matching(r"^E\d|foreign key|panic"), [])
        self.assertTrue(client.program.running)
        client.stop()

    def test_our_tables_are_no_hindrance_to_its_next_start(self) -> None:
        """With indexes, leases and columns of ours."""
        self.server.start()
        self.prune("--create-indexes")
        self.server.stop()
        self.server.start()
        tables = {table for (table,) in self.database.query("SHOW TABLES")}
        self.assertLessEqual(set(mysqlschema.TABLES), tables)
