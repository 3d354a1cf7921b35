"""What the settings choose among plug-ins is made, and by default nothing changes."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IStore
from fleetspeak.server.authorizers import AllowAll, Guarded, RequiredLabel
from fleetspeak.server.choices import database_lock, make_authorizer, make_store
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.sqlite import SqliteStore
from fleetspeak.wire import dsn


class StoreTests(SynchronousTestCase):
    def make(self, settings: ServerSettings) -> IStore:
        return make_store(settings, Clock(), time.time_ns, random.random)

    def test_by_default(self) -> None:
        path = Path(self.mktemp())
        self.assertIsInstance(self.make(ServerSettings(database_path=path)), SqliteStore)
        self.assertIsInstance(self.make(ServerSettings(mysql=dsn.parse("/nowhere"))), MysqlStore)

    def test_chosen(self) -> None:
        path = Path(self.mktemp())
        self.assertIsInstance(self.make(ServerSettings(store=f"sqlite:{path}")), SqliteStore)
        path.write_text("user:pass@unix(/no/such/socket)/fleet")
        path.chmod(0o600)
        self.assertIsInstance(self.make(ServerSettings(store=f"mysql:{path}")), MysqlStore)

    def test_what_cannot_be_had(self) -> None:
        for choice, said in (
            ("cloud:x", "--store: there is no cloud; there are: "),
            ("sqlite", "--store: sqlite takes the path"),
            ("mysql:/no/such/file", "--store: mysql takes the name of a file"),
        ):
            error = self.assertRaises(ConfigError, self.make, ServerSettings(store=choice))
            self.assertIn(said, str(error))


class LockTests(SynchronousTestCase):
    """One server on an SQLite database, any number on MySQL."""

    def test_a_second_server_is_told_what_to_do(self) -> None:
        path = Path(self.mktemp()).absolute()
        path.parent.mkdir(exist_ok=True)
        first, second = (
            database_lock(ServerSettings(database_path=path)),
            database_lock(ServerSettings(store=f"sqlite:{path}")),
        )
        assert first is not None
        assert second is not None
        first.acquire()
        self.addCleanup(first.release)
        error = self.assertRaises(ConfigError, second.acquire)
        self.assertIn(f"another server works on the database {path}: process {os.getpid()} has locked", str(error))
        self.assertIn("an SQLite database is for one process", str(error))
        self.assertIn("mysql_data_source_name", str(error))
        first.release()
        second.acquire()
        second.release()

    def test_where_servers_share(self) -> None:
        self.assertIsNone(database_lock(ServerSettings(mysql=dsn.parse("/nowhere"))))
        self.assertIsNone(database_lock(ServerSettings(store="mysql:file", database_path=Path("x"))))


class AuthorizerTests(SynchronousTestCase):
    def test_by_default(self) -> None:
        self.assertEqual(type(make_authorizer(ServerSettings(), Clock())), AllowAll)
        self.assertIsInstance(make_authorizer(ServerSettings(required_label="corp"), Clock()), RequiredLabel)

    def test_chosen(self) -> None:
        chosen = make_authorizer(ServerSettings(authorizer="label:corp"), Clock())
        self.assertIsInstance(chosen, Guarded)
        error = self.assertRaises(ConfigError, make_authorizer, ServerSettings(authorizer="magic"), Clock())
        self.assertIn("--authorizer: there is no magic; there are: all, label", str(error))
