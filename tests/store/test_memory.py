"""The store in memory keeps the contract."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.storecontract import StoreContract


class MemoryStoreContract(StoreContract, TestCase):
    """The whole contract."""

    def make_store(self) -> MemoryStore:
        return MemoryStore(now_ns=self.clock.now_ns, uniform=self.clock.uniform)


class MemoryStoreTests(SynchronousTestCase):
    """What is its own."""

    def test_interface(self) -> None:
        verifyObject(IStore, MemoryStore())

    def test_it_must_be_open(self) -> None:
        self.failureResultOf(MemoryStore().next_overdue(), StoreError)
