"""The contract of `fleetspeak.interfaces.IStore`, as tests that any store can run on itself.

Mix `StoreContract` into a `twisted.trial.unittest.TestCase`, and give it a store::

    class MyStoreContract(StoreContract, TestCase):
        def make_store(self):
            return MyStore(..., now_ns=self.clock.now_ns, uniform=self.clock.uniform)

All of this is for others, too, and stays from version to version: the classes and their names, `make_store`, the
`clock`, and the flags of `StoreCase` by which a store says which liberties it takes.  A store that passes the tests of
a version works with the server of that version.  A version that adds operations to `IStore` adds tests, and says so
in the news; what is not part of `IStore` (`IOperatorStore`) is tested on stores that provide it, and skipped on others.
To begin with, mix in the parts one by one.

Each test starts on an empty store.  The numbers in the tests are those of the behaviours that the existing servers'
own suites demand of every store; those without one are ours.
"""

from fleetspeak.testing.storecontract.audit import AuditContract
from fleetspeak.testing.storecontract.base import StoreClock
from fleetspeak.testing.storecontract.broadcasts import BroadcastsContract
from fleetspeak.testing.storecontract.clients import ClientsContract
from fleetspeak.testing.storecontract.concurrency import ConcurrencyContract
from fleetspeak.testing.storecontract.deadletters import DeadLettersContract
from fleetspeak.testing.storecontract.delivery import DeliveryContract
from fleetspeak.testing.storecontract.exchange import ExchangeContract
from fleetspeak.testing.storecontract.files import FilesContract
from fleetspeak.testing.storecontract.messages import MessagesContract
from fleetspeak.testing.storecontract.operators import OperatorsContract
from fleetspeak.testing.storecontract.retention import RetentionContract


class StoreContract(
    MessagesContract,
    DeliveryContract,
    DeadLettersContract,
    ExchangeContract,
    ConcurrencyContract,
    ClientsContract,
    BroadcastsContract,
    FilesContract,
    AuditContract,
    RetentionContract,
    OperatorsContract,
):
    """All of the contract."""


__all__ = [
    "AuditContract",
    "BroadcastsContract",
    "ClientsContract",
    "ConcurrencyContract",
    "DeadLettersContract",
    "DeliveryContract",
    "ExchangeContract",
    "FilesContract",
    "MessagesContract",
    "OperatorsContract",
    "RetentionContract",
    "StoreClock",
    "StoreContract",
]
