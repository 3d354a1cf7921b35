"""The contract of stores as others run it: on a store with nothing but what it must have."""

from __future__ import annotations

import unittest

from twisted.python.components import proxyForInterface
from twisted.trial.unittest import TestCase

from fleetspeak.interfaces import IStore
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing import storecontract


def case() -> type[unittest.TestCase]:
    """Not at the top of the module, where it would be collected."""

    class PlainStoreContract(storecontract.StoreContract, TestCase):
        def make_store(self) -> IStore:
            plain: IStore = proxyForInterface(IStore)(  # type: ignore[no-untyped-call]
                MemoryStore(now_ns=self.clock.now_ns, uniform=self.clock.uniform)
            )
            return plain

    return PlainStoreContract


class ContractTests(unittest.TestCase):
    def test_only_what_is_for_operators_is_left_out(self) -> None:
        result = unittest.TestResult()
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(case())
        suite.run(result)
        self.assertEqual((result.failures, result.errors), ([], []))
        skipped = [test.id().rpartition(".")[2] for test, _ in result.skipped]
        self.assertEqual([name for name in skipped if not name.startswith("test_operators_")], [])
        self.assertGreater(result.testsRun, 100)

    def test_its_parts_are_public(self) -> None:
        for name in storecontract.__all__:
            self.assertTrue(getattr(storecontract, name).__doc__, name)
        parts = {base.__name__ for base in storecontract.StoreContract.__bases__}
        self.assertLessEqual(parts, set(storecontract.__all__))
