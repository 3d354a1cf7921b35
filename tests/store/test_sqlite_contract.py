"""The SQLite store keeps the contract: with its threads, and with workers that do what they are told."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.store.sql.groupcommit import Call
from fleetspeak.store.sql.workers import MemoryWorker
from fleetspeak.store.sqlite import SqliteStore
from fleetspeak.testing.storecontract import StoreContract


class SqliteStoreContract(StoreContract, TestCase):
    """The whole contract, on threads: calls gather while others are being written."""

    def make_store(self) -> SqliteStore:
        return SqliteStore(self.mktemp(), now_ns=self.clock.now_ns, uniform=self.clock.uniform, reactor=reactor)


class EagerWorker(MemoryWorker):
    """Carries out each call at once: batches of one."""

    def submit(self, call: Call) -> None:
        super().submit(call)
        self.perform()


class UngroupedSqliteStoreContract(StoreContract, TestCase):
    """The whole contract, one call to a transaction."""

    def make_store(self) -> SqliteStore:
        return SqliteStore(self.mktemp(), now_ns=self.clock.now_ns, uniform=self.clock.uniform, make_worker=EagerWorker)


class InterfaceTests(SynchronousTestCase):
    def test_interface(self) -> None:
        store = SqliteStore(self.mktemp(), reactor=reactor)
        verifyObject(IStore, store)

    def test_it_must_be_open(self) -> None:
        store = SqliteStore(self.mktemp(), reactor=reactor)
        self.failureResultOf(store.next_overdue(), StoreError)
        self.failureResultOf(store.store_messages([]), StoreError)
