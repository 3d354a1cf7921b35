"""The MySQL store when others are in the way, and when connections, servers and processes end.

Whatever happens, a caller has one result, of a transaction that was committed, once.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pymysql
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.records import Claim, ClientData, Contact, Exchange, Exchanged
from fleetspeak.store.outcome import only
from fleetspeak.store.sql import mysql, mysqlsetup
from fleetspeak.store.sql.mysql import MysqlDatabase, MysqlStore
from fleetspeak.testing.storecontract.base import C1, C2, from_client, numbers, to_client
from fleetspeak.wire import dsn
from tests.mariadb import MariaDB, the_server
from tests.store.children import MESSAGES, messages_of
from tests.store.relay import Relay
from tests.store.test_crash import ROOT
from tests.store.test_mysql import MysqlCase


class FakeClock:
    """Time that passes when somebody sleeps, which a test may use to do something."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.meanwhile()


class InTheWayTests(MysqlCase):
    """Others hold locks, or kill connections (datastore 8: deadlocks are expected, and tried again)."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = FakeClock()
        self.store = self.open(self.database.dsn + "?innodb_lock_wait_timeout=1")
        self.store.writer._clock = self.clock
        for client_id in (C1, C2):
            self.done(self.store, self.store.add_client(client_id, ClientData(b"key")))
        self.other = pymysql.connect(unix_socket=str(the_server().socket), user="root", database=self.database.name)
        self.addCleanup(self.other.close)

    def exchange(self) -> Any:
        """Two clients in one batch, each of which sends a message, and takes one."""
        self.done(self.store, self.store.store_messages([to_client(1, C1), to_client(2, C2)]))
        calls = [
            self.store.exchange(
                [Exchange([from_client(number + 10, client)], Contact(client, 1, 1, "a"), claim=Claim(client))]
            )
            for number, client in enumerate((C1, C2))
        ]
        self.store.perform()
        return [self.successResultOf(call)[0] for call in calls]

    def assert_once(self, outcomes: list[Any]) -> None:
        for outcome in outcomes:
            self.assertIsInstance(outcome, Exchanged, outcome)
        self.assertEqual([numbers(outcome.messages) for outcome in outcomes], [[1], [2]])
        self.assertEqual(
            self.database.query("SELECT client_contact_id FROM client_contacts ORDER BY client_contact_id"),
            sorted((int(outcome.contact_id, 16),) for outcome in outcomes),
        )
        self.assertEqual(self.database.query("SELECT COUNT(*) FROM messages"), [(4,)])
        self.assertEqual(self.database.query("SELECT COUNT(*) FROM client_contact_messages"), [(4,)])
        retries = self.database.query("SELECT retry_count FROM pending_messages WHERE NOT for_server")
        self.assertEqual(retries, [(1,), (1,)])

    def test_a_lock_that_is_held_too_long(self) -> None:
        """Error 1205: the transaction is carried out anew, after 0, 100, 200 ms."""
        cursor = self.other.cursor()
        cursor.execute("SELECT * FROM clients WHERE client_id = %s FOR UPDATE", (C1,))
        self.clock.meanwhile = lambda: len(self.clock.slept) < 3 or self.other.rollback()
        self.assert_once(self.exchange())
        self.assertEqual(self.clock.slept, [0.0, 0.1, 0.2])

    def test_a_lock_that_is_held_for_ever(self) -> None:
        """Ends in an error, which says that nothing was stored; afterwards all goes on."""
        self.patch(mysql, "RETRY_TIME", 0.2)
        cursor = self.other.cursor()
        cursor.execute("SELECT * FROM clients WHERE client_id = %s FOR UPDATE", (C1,))
        for outcome in self.exchange():
            self.assertIsInstance(outcome, StoreError)
            self.assertIn("nothing was stored", str(outcome))
        self.other.rollback()
        self.database.query("DELETE FROM messages")
        self.assert_once(self.exchange())

    def test_what_another_server_is_taking_is_made_up_for(self) -> None:
        """A claim looks further than what it lost, so that a client gets all it may from either server."""
        messages = [to_client(number, C1, service="a" if number % 4 else "b") for number in range(12)]
        self.done(self.store, self.store.store_messages(messages))
        cursor = self.other.cursor()
        held = [bytes(messages[number].message_id) for number in (0, 1, 2, 5)]
        cursor.execute("SELECT * FROM pending_messages WHERE message_id IN %s FOR UPDATE", (held,))
        for tokens, expected in ((None, [3, 4, 6, 7]), ({"a": 3, "b": 1}, [8, 9, 10, 11])):
            claim = Claim(C1, 4, tokens)
            [taken] = self.done(self.store, self.store.client_messages_for_processing([claim]))
            self.assertEqual(numbers(taken), expected)
        [taken] = self.done(self.store, self.store.client_messages_for_processing([Claim(C1, 4)]))
        self.assertEqual(numbers(taken), [], "the other server has them")
        self.other.rollback()
        [taken] = self.done(self.store, self.store.client_messages_for_processing([Claim(C1, 4)]))
        self.assertEqual(numbers(taken), [0, 1, 2, 5])

    def test_a_deadlock(self) -> None:
        """Error 1213: likewise."""
        cursor = self.other.cursor()
        cursor.execute(
            "INSERT INTO clients SELECT UNHEX(CONCAT('FF', LPAD(HEX(seq), 14, '0'))), 'k', 0, 0, '', '', 0, 0"
            " FROM seq_1_to_1000"  # so that it is the store which has to give way
        )
        cursor.execute("SELECT * FROM clients WHERE client_id = %s FOR UPDATE", (C2,))
        seen: list[int] = []
        explain = MysqlDatabase._explain
        self.patch(
            MysqlDatabase, "_explain", lambda database, error: seen.append(error.args[0]) or explain(database, error)
        )
        # While the store has the first client and waits for the second, the other wants the first.
        thread = threading.Thread(
            target=lambda: self.other.cursor().execute("SELECT * FROM clients WHERE client_id = %s FOR UPDATE", (C1,))
        )
        send = MysqlDatabase._cursor

        def watched(database: MysqlDatabase, query: bytes) -> Any:
            if query.startswith(b"UPDATE clients") and not thread.ident:
                send(database, b"SELECT client_id FROM clients WHERE client_id = X'%s' FOR UPDATE" % C1.hex().encode())
                thread.start()
            return send(database, query)

        self.patch(MysqlDatabase, "_cursor", watched)

        def give_way() -> None:
            thread.join()
            self.other.rollback()

        self.clock.meanwhile = give_way
        self.assert_once(self.exchange())
        self.assertIn(1213, seen)

    def test_the_connection_is_killed_before_any_statement(self) -> None:
        """And between any two, and before the COMMIT: all is carried out once."""
        send = MysqlDatabase._cursor
        number = 0
        while True:
            self.database.query("DELETE FROM messages")
            self.database.query("DELETE FROM client_contacts")
            left = number
            killed = False

            def watched(database: MysqlDatabase, query: bytes) -> Any:
                nonlocal left, killed
                if database is self.store.writer and not killed and not query.startswith(b"INSERT INTO fleetspeak"):
                    killed = left == 0
                    left -= 1
                    if killed:
                        assert database._connection is not None
                        the_server().query(None, f"KILL {database._connection.thread_id()}")
                return send(database, query)

            self.done(self.store, self.store.store_messages([]))
            with_kills = self.patch(MysqlDatabase, "_cursor", watched)
            outcomes = self.exchange()
            with_kills.restore()
            self.assert_once(outcomes)
            if not killed:
                break
            number += 1
        self.assertGreater(number, 8)

    def test_an_idle_connection_is_tried_first(self) -> None:
        """One that the server gave up meanwhile costs no retry."""
        assert self.store.writer._connection is not None
        the_server().query(None, f"KILL {self.store.writer._connection.thread_id()}")
        self.clock.now += 31
        self.assert_once(self.exchange())
        self.assertEqual(self.clock.slept, [])


class OpeningTests(MysqlCase):
    """Servers that start at the same time are in each other's way."""

    def test_a_deadlock_while_the_tables_are_made(self) -> None:
        """As at a node of Galera, when another one was quicker."""
        prepare, times = mysqlsetup.prepare, iter(range(2))

        def failing(connection: object, before: int) -> object:
            if next(times, None) is not None:
                raise pymysql.OperationalError(1213, "Deadlock found when trying to get lock")
            return prepare(connection, before)

        self.patch(mysqlsetup, "prepare", failing)
        clock = FakeClock()
        database = MysqlDatabase(dsn.parse(self.database.dsn), clock=clock)
        database.open()
        database.close()
        self.assertEqual(clock.slept, [0.0, 0.1])


class RelayTests(TestCase):
    """Connections that break around a COMMIT, with the real thing in between."""

    CALLS = 150

    async def run_with(self, fate: Callable[[], str]) -> None:
        database = the_server().new_database()
        self.addCleanup(database.drop)
        relay = Relay(the_server().port)
        self.addCleanup(relay.close)
        store = MysqlStore(dsn.parse(database.dsn_by_tcp(relay.port)), reactor=reactor)
        await store.open()
        try:
            await store.add_client(C1, ClientData(b"key"))
            await store.store_messages([to_client(number) for number in range(1000, 1000 + 2 * self.CALLS)])
            relay.fate = fate
            claimed: list[int] = []
            contacts: list[str] = []
            for start in range(0, self.CALLS, 3):
                calls = [
                    only(store.exchange([Exchange([from_client(n)], Contact(C1, n, n, "a"), claim=Claim(C1, 2))]))
                    for n in range(start, start + 3)
                ]
                for exchanged in await gatherResults(calls):
                    claimed += numbers(exchanged.messages)
                    contacts.append(exchanged.contact_id)
            relay.fate = lambda: "pass"
            self.assertGreater(relay.broken, 5)
            self.assertEqual(
                sorted(claimed), list(range(1000, 1000 + 2 * self.CALLS)), "each was taken, and given, once"
            )
            rows = database.query("SELECT client_contact_id, sent_nonce FROM client_contacts")
            self.assertEqual(sorted(contacts), sorted(f"{row:x}" for row, _ in rows))
            nonces = sorted(int.from_bytes(nonce, "little") for _, nonce in rows)  # type: ignore[arg-type]
            self.assertEqual(nonces, list(range(self.CALLS)), "no exchange was carried out twice")
            self.assertEqual(
                database.query("SELECT MAX(retry_count) FROM pending_messages WHERE NOT for_server"), [(1,)]
            )
        finally:
            await store.close()

    async def test_commits_that_never_arrive(self) -> None:
        chance = random.Random(1)
        await self.run_with(lambda: "before" if chance.random() < 0.3 else "pass")

    async def test_answers_to_commits_that_are_lost(self) -> None:
        chance = random.Random(2)
        await self.run_with(lambda: "after" if chance.random() < 0.3 else "pass")

    async def test_commits_with_any_fate(self) -> None:
        chance = random.Random(3)
        await self.run_with(lambda: chance.choice(["before", "after", "meanwhile", *["pass"] * 7]))


class RestartTests(TestCase):
    """The server ends at once, and comes back."""

    async def test_mariadbd_is_killed_under_load(self) -> None:
        """With durable commits nothing that was confirmed is lost, and nothing is there twice."""
        self.patch(mysql, "RETRY_TIME", 60.0)
        server = MariaDB(options=())
        self.addCleanup(server.stop)
        database = server.new_database()
        store = MysqlStore(dsn.parse(database.dsn), reactor=reactor)
        await store.open()
        confirmed: list[str] = []

        back, over = threading.Event(), threading.Event()

        def restart() -> None:
            server.kill()
            server.start()
            back.set()
            over.wait()  # the program ends with the thread that started it

        thread = threading.Thread(target=restart)
        try:
            await store.add_client(C1, ClientData(b"key"))
            number = 0
            while not back.is_set() or number < 300:
                if number == 90:
                    thread.start()
                calls = [
                    only(store.exchange([Exchange([from_client(n)], Contact(C1, n, n, "a"))]))
                    for n in range(number, number + 3)
                ]
                confirmed += [exchanged.contact_id for exchanged in await gatherResults(calls)]
                number += 3
            rows = database.query("SELECT client_contact_id, sent_nonce FROM client_contacts")
            self.assertEqual(sorted(confirmed), sorted(f"{row:x}" for row, _ in rows))
            self.assertEqual(len({nonce for _, nonce in rows}), number)
            self.assertEqual(database.query("SELECT COUNT(*) FROM messages"), [(number,)])
        finally:
            await store.close()
            over.set()
            thread.join()

    async def test_a_server_that_stays_away(self) -> None:
        """Callers are told, at first after a while and then at once; when it is back, so is the store."""
        self.patch(mysql, "RETRY_TIME", 0.3)
        server = MariaDB()
        self.addCleanup(server.stop)
        database = server.new_database()
        store = MysqlStore(dsn.parse(database.dsn), reactor=reactor)
        await store.open()
        try:
            server.kill()
            for _ in range(3):
                with self.assertRaises(StoreError) as raised:
                    await store.add_client(C1, ClientData(b"key"))
                self.assertIn(str(server.socket), str(raised.exception))
            server.start()
            await store.add_client(C1, ClientData(b"key"))
            self.assertEqual(list(await store.client_data([C1])), [C1])
        finally:
            await store.close()


class CrashTests(MysqlCase):
    """The process ends."""

    def test_kill_9_loses_nothing_that_was_confirmed(self) -> None:
        """What the writing process had confirmed is there, and all of it."""
        command = [sys.executable, "-m", "tests.store.children", "write", self.database.dsn]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            confirmed = {int(process.stdout.readline()) for _ in range(100)}
            process.kill()
            confirmed.update(int(line) for line in process.stdout if line.endswith("\n"))
        self.assertEqual(process.returncode, -9)
        store = self.open()
        for number in confirmed:
            wanted = [MessageId(message.message_id) for message in messages_of(number)]
            self.assertEqual(self.done(store, store.get_messages(wanted, True)), messages_of(number))
        [(contacts,)] = self.database.query("SELECT COUNT(*) FROM client_contacts")
        assert isinstance(contacts, int)
        for table in ("messages", "client_contact_messages"):
            [(rows,)] = self.database.query(f"SELECT COUNT(*) FROM {table}")
            self.assertEqual(rows, contacts * MESSAGES, "an exchange is all or nothing")
        self.assertGreaterEqual(contacts, len(confirmed))


class ManyStoresTests(TestCase):
    """Several servers on one database (datastore 8)."""

    async def test_four_at_a_time(self) -> None:
        """They enrol the same clients, take each message once, and never fail for each other."""
        database = the_server().new_database()
        self.addCleanup(database.drop)
        stores = [MysqlStore(dsn.parse(database.dsn), reactor=reactor) for _ in range(4)]
        try:
            await gatherResults([store.open() for store in stores])
            clients = [ClientId(bytes([7] * 7 + [n])) for n in range(10)]
            calls = [
                only(
                    store.exchange(
                        [
                            Exchange(
                                [from_client(100 * n + m, client) for m in range(3)],
                                Contact(client, 1, 1, "a"),
                                new_client=ClientData(b"key"),
                            )
                        ]
                    )
                )
                for n, client in enumerate(clients)
                for store in stores
            ]
            self.assertEqual(len({exchanged.contact_id for exchanged in await gatherResults(calls)}), 40)
            await stores[0].store_messages([to_client(5000 + n, clients[n % 10]) for n in range(400)])
            claims = [
                only(store.client_messages_for_processing([Claim(client, 15)]))
                for _ in range(5)
                for client in clients
                for store in stores
            ]
            claimed = [n for taken in await gatherResults(claims) for n in numbers(taken)]
            self.assertEqual(sorted(claimed), list(range(5000, 5400)))
        finally:
            for store in stores:
                await store.close()

    async def test_overdue_messages_go_to_one_of_them(self) -> None:
        await self.take_overdue({})

    async def test_so_they_do_beside_a_service_without_room(self) -> None:
        """The look locks nothing then; what another server has taken since is left out."""
        await self.take_overdue({"full": 0})

    async def take_overdue(self, room: dict[str, int]) -> None:
        """Three servers at once, until they find nothing."""
        database = the_server().new_database()
        self.addCleanup(database.drop)
        now = 10**18
        stores = [MysqlStore(dsn.parse(database.dsn), reactor=reactor, now_ns=lambda: now) for _ in range(3)]
        try:
            await gatherResults([store.open() for store in stores])
            await stores[0].store_messages([from_client(n) for n in range(200)])
            for_full = from_client(1000)
            for_full.destination.service_name = "full"
            if room:
                await stores[0].store_messages([for_full])
            now += 600 * 10**9
            taken: list[int] = []
            while batch := [
                n for some in await gatherResults([s.overdue_messages(20, room) for s in stores]) for n in numbers(some)
            ]:
                taken += batch
            self.assertEqual(sorted(taken), list(range(200)))
        finally:
            for store in stores:
                await store.close()
