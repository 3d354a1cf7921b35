"""The factories of the built-in stores, and the file that says where a MySQL database is."""

from __future__ import annotations

import random
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IStore, IStoreFactory
from fleetspeak.store.factories import MAX_DSN, MysqlFactory, SqliteFactory, read_data_source
from tests.mariadb import the_server


class DataSourceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def write(self, content: bytes, mode: int = 0o640) -> None:
        self.path.write_bytes(content)
        self.path.chmod(mode)

    def refused(self, name: str) -> str:
        error = self.assertRaises(ConfigError, read_data_source, name)
        self.assertNotIn("SECRET", str(error))
        return str(error)

    def test_a_file_of_one_line(self) -> None:
        self.write(b"fleet:SECRET@tcp(db.example:3306)/fleetspeak\n")
        source = read_data_source(str(self.path))
        self.assertEqual((source.user, source.password, source.host), ("fleet", "SECRET", "db.example"))

    def test_everyone_may_read_it(self) -> None:
        self.write(b"fleet:SECRET@tcp(db.example:3306)/fleetspeak", 0o644)
        self.assertIn(f"chmod o= {self.path}", self.refused(str(self.path)))

    def test_the_name_itself_instead_of_a_file(self) -> None:
        """It stands on the command line, and is not repeated in a log."""
        said = self.refused("fleet:SECRET@tcp(db.example:3306)/fleetspeak")
        self.assertIn("it has to be in a file", said)
        self.assertIn("is none", self.refused("/no/such/file"))
        self.assertIn("mysql:/etc/fleet.dsn", self.refused(""))

    def test_what_is_no_data_source(self) -> None:
        for content, said in (
            (b"SECRET", str(self.path)),
            (b"", str(self.path)),
            (b"\xff\xfe", "not text in UTF-8"),
            (b"SECRET" * MAX_DSN, "far too long"),
        ):
            self.write(content)
            self.assertIn(said, self.refused(str(self.path)))


def private_file(name: str, content: str) -> str:
    path = Path(name)
    path.write_text(content)
    path.chmod(0o600)
    return name


class FactoryTests(TestCase):
    async def work(self, store: IStore) -> None:
        verifyObject(IStore, store)
        await store.open()
        try:
            self.assertIsNone(await store.next_overdue())
        finally:
            await store.close()

    async def test_sqlite(self) -> None:
        factory = SqliteFactory()
        verifyObject(IStoreFactory, factory)
        await self.work(factory.make(self.mktemp(), reactor, time.time_ns, random.random))

    async def test_mysql(self) -> None:
        database = the_server().new_database()
        self.addCleanup(database.drop)
        factory = MysqlFactory()
        verifyObject(IStoreFactory, factory)
        await self.work(factory.make(private_file(self.mktemp(), database.dsn), reactor, time.time_ns, random.random))
