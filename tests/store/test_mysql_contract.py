"""The MySQL store keeps the contract, on a private MariaDB: with its threads, and one call to a transaction."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.testing.storecontract import StoreContract
from fleetspeak.wire import dsn
from tests.mariadb import the_server
from tests.store.test_sqlite_contract import EagerWorker


class MysqlStoreContract(StoreContract, TestCase):
    """The whole contract, on threads: calls gather while others are being written."""

    exact_labels = False
    source_message_id_size = 16

    def make_store(self) -> MysqlStore:
        database = the_server().new_database()
        self.addCleanup(database.drop)
        return MysqlStore(
            dsn.parse(database.dsn), now_ns=self.clock.now_ns, uniform=self.clock.uniform, reactor=reactor
        )


class UngroupedMysqlStoreContract(StoreContract, TestCase):
    """The whole contract, one call to a transaction."""

    exact_labels = False
    source_message_id_size = 16

    def make_store(self) -> MysqlStore:
        database = the_server().new_database()
        self.addCleanup(database.drop)
        return MysqlStore(
            dsn.parse(database.dsn), now_ns=self.clock.now_ns, uniform=self.clock.uniform, make_worker=EagerWorker
        )


class InterfaceTests(SynchronousTestCase):
    def test_interface(self) -> None:
        verifyObject(IStore, MysqlStore(dsn.parse("/nowhere"), reactor=reactor))

    def test_it_must_be_open(self) -> None:
        store = MysqlStore(dsn.parse("/nowhere"), reactor=reactor)
        self.failureResultOf(store.next_overdue(), StoreError)
        self.failureResultOf(store.store_messages([]), StoreError)
