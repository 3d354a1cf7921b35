"""Several servers on one database (datastore 8), sentence by sentence.

Here are the ones about two servers of ours.  A mixed pair is in tests/interop/test_shared_database.py, the limits of
broadcasts under crashes in tests/server/test_broadcast_crash.py, notifications in tests/fleet and tests/interop, and
what only nodes of a cluster have in tests/galera.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from fleetspeak.records import Claim, ClientData, Contact, Exchange
from fleetspeak.server.cache import ClientCache
from fleetspeak.testing.storecontract.base import C1, from_client, numbers, to_client
from tests.store.test_mysql import MysqlCase, ToldMysqlStore

SECOND = 10**9
MINUTE = 60 * SECOND


class SeveralServersTests(MysqlCase):
    """Two servers, each with a clock of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.ours = self.theirs = 1_000_000 * SECOND
        self.one = self.open(now_ns=lambda: self.ours, uniform=lambda: 0.0)
        self.other = self.open(now_ns=lambda: self.theirs, uniform=lambda: 0.0)
        self.done(self.one, self.one.add_client(C1, ClientData(b"key")))

    def advance(self, ns: int) -> None:
        self.ours += ns
        self.theirs += ns

    def claim(self, store: ToldMysqlStore) -> list[int]:
        [taken] = self.done(store, store.client_messages_for_processing([Claim(C1)]))
        return numbers(taken)

    def overdue(self, store: ToldMysqlStore) -> list[int]:
        return numbers(self.done(store, store.overdue_messages(100)))

    def test_section_8_there_is_no_leader_and_no_registry(self) -> None:
        """A server that comes finds everything, and one that goes is missed by nobody."""
        self.done(self.one, self.one.store_messages([to_client(1), from_client(2)]))
        self.successResultOf(self.one.close())
        third = self.open(now_ns=lambda: self.theirs, uniform=lambda: 0.0)
        self.assertEqual(self.claim(third), [1])
        self.advance(MINUTE + SECOND)
        self.assertEqual(self.overdue(self.other), [2])

    def test_section_8_claims_of_pending_rows(self) -> None:
        """datastore 3.4 and 3.6: what one has taken, another one gets when it is due again, and not before."""
        self.done(self.one, self.one.store_messages([to_client(1), from_client(2)]))
        self.advance(MINUTE + SECOND)
        self.assertEqual((self.claim(self.one), self.overdue(self.one)), ([1], [2]))
        self.assertEqual((self.claim(self.other), self.overdue(self.other)), ([], []))
        self.advance(15 * MINUTE + SECOND)
        self.assertEqual((self.claim(self.other), self.overdue(self.other)), ([1], [2]))

    def test_section_8_addresses_of_streams(self) -> None:
        """What one server writes, the other one reads."""
        contact = Contact(C1, 1, 2, "peer:1", streaming_to="one.example:81")
        self.done(self.one, self.one.record_contacts([contact]))
        found = self.done(self.other, self.other.client_streams([C1]))
        self.assertEqual(found, {C1: ("one.example:81", self.ours)})

    def test_section_8_clock_skew_shifts_due_times(self) -> None:
        """A minute ahead: what that server puts off is due a minute late for the others; nothing is lost."""
        self.theirs += MINUTE
        self.done(self.other, self.other.store_messages([to_client(1)]))
        self.assertEqual(self.claim(self.one), [])
        self.advance(MINUTE)
        self.assertEqual(self.claim(self.one), [1])

    def test_section_8_a_client_at_two_servers_at_once(self) -> None:
        """An old stream and a new poll: both may fetch; a message goes to one of them per due time."""
        self.done(self.one, self.one.store_messages([to_client(number) for number in range(1, 7)]))
        taken: dict[str, list[int]] = {"stream": [], "poll": []}
        for _ in range(3):
            for name, store in (("stream", self.one), ("poll", self.other)):
                exchange = Exchange(contact=Contact(C1, 1, 2, name), claim=Claim(C1, 1))
                [exchanged] = self.done(store, store.exchange([exchange]))
                taken[name] += numbers(exchanged.messages)
        self.assertEqual(sorted(taken["stream"] + taken["poll"]), [1, 2, 3, 4, 5, 6])
        self.assertEqual([len(numbers) for numbers in taken.values()], [3, 3])

    def test_section_8_caches_are_per_process(self) -> None:
        """For 45 s a server does not see that a client was blacklisted at another one."""
        clock = Clock()
        caches = [ClientCache(store.client_data, clock.seconds) for store in (self.one, self.other)]
        seen = [self.lookup(cache).blacklisted for cache in caches]
        self.done(self.one, self.one.blacklist_client(C1))
        caches[0].invalidate(C1)
        seen += [self.lookup(cache).blacklisted for cache in caches]
        clock.advance(46)
        seen += [self.lookup(cache).blacklisted for cache in caches]
        self.assertEqual(seen, [False, False, True, False, True, True])

    def lookup(self, cache: ClientCache) -> Any:
        async def look() -> ClientData | None:
            return await cache.lookup(C1)

        found = Deferred.fromCoroutine(look())
        for store in (self.one, self.other):
            store.perform()
        return self.successResultOf(found)
