"""Every operation of the store is told under upstream's name: server-core 9.1, DatastoreOperation."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from fleetspeak.errors import NotFound, StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IOperatorStore, IStore
from fleetspeak.pb import common
from fleetspeak.records import Claim, ClientData, Contact, Exchange, Label
from fleetspeak.server.stats import ServerStats
from fleetspeak.server.stats.store import MeasuredStore, go_name
from fleetspeak.store.memory import MemoryStore
from fleetspeak.store.outcome import only
from fleetspeak.testing.serverside import RecordingServerStats

C1 = ClientId(b"\0\0\0\0\0\0\0\1")
KEY = ClientData(b"k")

UPSTREAM = """
ClientMessagesForProcessing StoreMessages DeletePendingMessages GetPendingMessageCount GetPendingMessages GetMessages
SetMessageResult GetMessageResult ListClients StreamClientIds GetClientData AddClient AddClientLabel RemoveClientLabel
BlacklistClient RecordClientContact ListClientContacts RecordResourceUsageData FetchResourceUsageRecords
LinkMessagesToContact CreateBroadcast DisableBroadcasts SaveBroadcastMessage ListActiveBroadcasts ListSentBroadcasts
CreateAllocation CleanupAllocation StoreFile DeleteFile StatFile ReadFile
"""
"""Those of server-core 9.1 that the store has; StreamClientContacts is ListClientContacts in pages, and
SetBroadcastLimit is no operation of its own here."""


@implementer(IStore)
class _PlainStore:
    """A store for clients only."""

    def __getattr__(self, name: str) -> Any:
        return None


class MeasuredCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.heard = RecordingServerStats()
        self.inner = MemoryStore()
        self.store = MeasuredStore(self.inner, ServerStats([self.heard], self.clock))
        self.successResultOf(self.store.open())

    def told(self) -> list[tuple[str, float, bool]]:
        return [(name, seconds, error is not None) for name, seconds, error in self.heard.calls("store_operation")]

    def names(self) -> list[str]:
        return [name for name, _, _ in self.told()]


class NamesTests(SynchronousTestCase):
    def test_server_core_9_1_all_names_of_upstream(self) -> None:
        ours = {go_name(name) for name in IStore.names(all=True)} | {"AddClientLabel", "RemoveClientLabel"}
        self.assertEqual(set(UPSTREAM.split()) - ours, set())

    def test_what_upstream_does_not_have_is_told_under_its_own_name_in_gos_spelling(self) -> None:
        self.assertEqual(go_name("next_overdue"), "NextOverdue")


class OperationTests(MeasuredCase):
    def test_it_is_a_store(self) -> None:
        verifyObject(IStore, self.store)

    def test_it_has_what_operators_ask_for_if_the_store_has(self) -> None:
        """And tells of it."""
        verifyObject(IOperatorStore, self.store)
        self.successResultOf(IOperatorStore(self.store).settings())
        self.assertEqual(self.names(), ["Settings"])
        without = MeasuredStore(object.__new__(_PlainStore), ServerStats([], self.clock))
        self.assertIsNone(IOperatorStore(without, None))

    def test_an_operation_is_told_when_it_ends_with_how_long_it_took(self) -> None:
        waiting: Deferred[Any] = Deferred()
        self.inner.stat_file = lambda service, name: waiting  # type: ignore[method-assign]
        store = MeasuredStore(self.inner, ServerStats([self.heard], self.clock))
        asked = store.stat_file("service", "name")
        self.clock.advance(2)
        self.assertEqual(self.told(), [])
        waiting.callback("stat")
        self.assertEqual(self.successResultOf(asked), "stat")
        self.assertEqual(self.told(), [("StatFile", 2, False)])

    def test_one_that_fails_is_told_with_its_error_and_fails_all_the_same(self) -> None:
        self.failureResultOf(self.store.get_messages([MessageId(b"?" * 32)], want_data=False), NotFound)
        self.assertEqual(self.told(), [("GetMessages", 0, True)])

    def test_a_client_that_is_not_found_is_no_error(self) -> None:
        self.assertEqual(self.successResultOf(self.store.client_data([C1])), {})
        self.assertEqual(self.told(), [("GetClientData", 0, False)])

    def test_an_exchange_is_told_as_what_upstream_makes_of_it(self) -> None:
        contact = Contact(C1, 1, 2, "192.0.2.7:1")
        message = common.Message(message_id=b"m" * 32)
        message.source.client_id, message.destination.service_name = C1, "greeter"
        message.creation_time.seconds = 1
        for_client = common.Message(message_id=b"c" * 32)
        for_client.source.service_name = for_client.destination.service_name = "greeter"
        for_client.destination.client_id = C1
        for_client.creation_time.seconds = 1
        self.successResultOf(only(self.store.exchange([Exchange(contact=contact, new_client=KEY)])))
        self.assertEqual(self.names(), ["AddClient", "RecordClientContact"])
        self.successResultOf(self.inner.store_messages([for_client]))
        self.heard.told.clear()
        self.successResultOf(only(self.store.exchange([Exchange([message], contact, claim=Claim(C1))])))
        self.assertEqual(
            self.names(),
            ["RecordClientContact", "StoreMessages", "ClientMessagesForProcessing", "LinkMessagesToContact"],
        )
        self.assertEqual({error for _, _, error in self.told()}, {False})

    def test_an_exchange_that_fails_alone_or_with_all_others(self) -> None:
        contact = Contact(C1, 1, 2, "192.0.2.7:1")
        unknown, known = Exchange(contact=contact), Exchange(contact=contact, new_client=KEY)
        outcome = self.successResultOf(self.store.exchange([unknown, known]))
        self.assertIsInstance(outcome[0], StoreError)
        self.assertEqual(
            self.told(),
            [("RecordClientContact", 0, True), ("AddClient", 0, False), ("RecordClientContact", 0, False)],
        )
        self.inner.exchange = lambda exchanges: fail(StoreError("gone"))  # type: ignore[method-assign]
        self.heard.told.clear()
        self.failureResultOf(self.store.exchange([Exchange(contact=contact)]), StoreError)
        self.assertEqual(self.told(), [("RecordClientContact", 0, True)])

    def test_requests_of_one_call_are_told_one_by_one(self) -> None:
        good, bad = Contact(C1, 1, 2, "192.0.2.7:1"), Contact(C1, 1, 2, "x" * 1000)
        self.successResultOf(self.inner.add_client(C1, KEY))
        self.successResultOf(self.store.record_contacts([good, bad]))
        self.assertEqual(self.told(), [("RecordClientContact", 0, False), ("RecordClientContact", 0, True)])

    def test_labels_are_told_as_added_and_removed(self) -> None:
        self.successResultOf(self.inner.add_client(C1, KEY))
        one = Label("client", "one")
        for add, remove, names in (
            ([one], [], ["AddClientLabel"]),
            ([], [one], ["RemoveClientLabel"]),
            ([one], [one], ["AddClientLabel", "RemoveClientLabel"]),
            ([], [], []),
        ):
            self.heard.told.clear()
            self.successResultOf(self.store.update_client_labels(C1, add, remove))
            self.assertEqual(self.names(), names)

    def test_whatever_else_a_store_has_can_be_reached(self) -> None:
        self.inner.extra = "more"  # type: ignore[attr-defined]
        self.assertEqual(self.store.extra, "more")
