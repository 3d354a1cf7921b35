from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.ids import ClientId
from fleetspeak.records import ClientData
from fleetspeak.server.cache import ClientCache

ALICE = ClientId(b"alice-id")
BOB = ClientId(b"bob---id")
KNOWN = {ALICE: ClientData(b"alice's key"), BOB: ClientData(b"bob's key")}


class SlowReader:
    """A store whose answers come when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[ClientId], Deferred[dict[ClientId, ClientData]]]] = []

    def __call__(self, client_ids: list[ClientId]) -> Deferred[dict[ClientId, ClientData]]:
        answer: Deferred[dict[ClientId, ClientData]] = Deferred()
        self.asked.append((client_ids, answer))
        return answer

    def answer(self, known: dict[ClientId, ClientData]) -> None:
        client_ids, answer = self.asked.pop(0)
        answer.callback({one: known[one] for one in client_ids if one in known})


class ClientCacheTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.reader = SlowReader()
        self.cache = ClientCache(self.reader, self.clock.seconds)

    def lookup(self, client_id: ClientId) -> ClientData | None:
        found = Deferred.fromCoroutine(self.cache.lookup(client_id))
        if self.reader.asked:
            self.reader.answer(KNOWN)
        return self.successResultOf(found)

    def test_visible_at_44_seconds_gone_at_46(self) -> None:
        """server-core.md 13: entry visible at age 44 s, gone at age 46 s; the sweep empties the map."""
        self.cache.put(ALICE, KNOWN[ALICE])
        self.clock.advance(44)
        self.assertEqual(self.cache.get(ALICE), KNOWN[ALICE])
        self.clock.advance(2)
        self.assertIsNone(self.cache.get(ALICE))
        self.cache.sweep()
        self.assertEqual(len(self.cache), 0)

    def test_asks_the_store_once(self) -> None:
        self.assertEqual(self.lookup(ALICE), KNOWN[ALICE])
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.cache.lookup(ALICE))), KNOWN[ALICE])
        self.assertEqual(self.reader.asked, [])

    def test_reading_does_not_prolong(self) -> None:
        """server-core 2.5."""
        self.lookup(ALICE)
        self.clock.advance(30)
        self.lookup(ALICE)
        self.clock.advance(30)
        self.assertIsNone(self.cache.get(ALICE))

    def test_unknown_clients_are_asked_for_again(self) -> None:
        stranger = ClientId(b"stranger")
        self.assertIsNone(self.lookup(stranger))
        self.assertIsNone(self.lookup(stranger))
        self.assertEqual(len(self.cache), 0)

    def test_invalidated_for_one_client(self) -> None:
        """server-core 2.5."""
        self.lookup(ALICE)
        self.lookup(BOB)
        self.cache.invalidate(ALICE)
        self.assertIsNone(self.cache.get(ALICE))
        self.assertEqual(self.cache.get(BOB), KNOWN[BOB])

    def test_cleared(self) -> None:
        """server-core 2.5."""
        self.lookup(ALICE)
        self.cache.clear()
        self.assertIsNone(self.cache.get(ALICE))

    def test_what_was_read_before_a_change_is_not_kept(self) -> None:
        found = Deferred.fromCoroutine(self.cache.lookup(ALICE))
        self.cache.invalidate(ALICE)
        self.reader.answer(KNOWN)
        self.assertEqual(self.successResultOf(found), KNOWN[ALICE])
        self.assertIsNone(self.cache.get(ALICE))

    def test_old_entries_go_as_new_ones_come(self) -> None:
        for number in range(100):
            self.cache.put(ClientId(number.to_bytes(8, "big")), ClientData(b"key"))
            self.clock.advance(1)
        self.assertEqual(len(self.cache), 45)
