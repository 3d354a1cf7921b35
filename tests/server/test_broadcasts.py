"""Broadcasts: who gets them, when, and how many."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId
from fleetspeak.pb import broadcasts, common
from fleetspeak.records import UNLIMITED, ClientData, Label, ResultUpdate
from fleetspeak.server.broadcasts import LOOK, BroadcastManager
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.stats import ServerStats
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.serverside import RecordingServerStats
from tests.server.contact.world import ADDRESS, START_NS, World, for_client, identity, wrapped

LINUX = frozenset({Label("client", "linux")})


def client_id(number: int) -> ClientId:
    return ClientId(number.to_bytes(8, "big"))


def broadcast(number: int = 1, *labels: str, **fields: Any) -> broadcasts.Broadcast:
    made = broadcasts.Broadcast(broadcast_id=number.to_bytes(8, "big"), message_type="Note", **fields)
    made.source.service_name = "service"
    made.required_labels.extend(common.Label(service_name="client", label=label) for label in labels)
    return made


class ManagerCase(SynchronousTestCase):
    """Servers over one store in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(now_ns=self.now_ns, uniform=lambda: 0.0)
        self.store.open()
        self.messages = 0

    def now_ns(self) -> int:
        return START_NS + int(self.clock.seconds() * 10**9)

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            self.clock.advance(min(0.05, seconds))
            seconds -= 0.05

    def add_clients(self, count: int) -> list[ClientId]:
        for number in range(1, count + 1):
            self.successResultOf(self.store.add_client(client_id(number), ClientData(b"key")))
        return [client_id(number) for number in range(1, count + 1)]

    def create(self, made: broadcasts.Broadcast, limit: int = UNLIMITED, max_errors: int = 0) -> None:
        self.successResultOf(self.store.create_broadcast(made, limit, max_errors))

    def manager(self, dispatcher: Dispatcher | None = None, **settings: Any) -> BroadcastManager:
        streams = Dispatcher() if dispatcher is None else dispatcher  # an empty one is false
        made = BroadcastManager(self.store, streams, self.clock, self.now_ns, uniform=lambda: 0.0, **settings)
        self.successResultOf(Deferred.fromCoroutine(made.start()))
        return made

    def stop(self, manager: BroadcastManager) -> None:
        stopped = Deferred.fromCoroutine(manager.stop())
        self.successResultOf(stopped)

    def take(
        self,
        manager: BroadcastManager,
        one: ClientId,
        labels: frozenset[Label] = frozenset(),
        tokens: dict[str, int] | None = None,
    ) -> list[common.Message]:
        if not manager.may_have(one, labels):
            return []
        return self.successResultOf(Deferred.fromCoroutine(manager.take(one, labels, tokens, "")))

    def sent(self, number: int = 1) -> int:
        found = self.successResultOf(self.store.sent_broadcasts([client_id(n) for n in range(1, 101)]))
        return sum(number.to_bytes(8, "big") in of_one for of_one in found.values())

    def accounted(self) -> list[int]:
        return [one.sent for one in self.successResultOf(self.store.active_broadcasts())]


class TakeTests(ManagerCase):
    def test_a_client_gets_it_once(self) -> None:
        """server-core 6, sending 1."""
        self.add_clients(2)
        self.create(broadcast(destination=common.Address(service_name="there")))
        manager = self.manager()
        [message] = self.take(manager, client_id(1))
        self.assertEqual(message.destination, common.Address(client_id=client_id(1), service_name="there"))
        self.assertEqual((message.source.service_name, message.message_type), ("service", "Note"))
        self.assertFalse(manager.may_have(client_id(1), frozenset()), "nothing is asked of the store any more")
        self.assertEqual(self.take(self.manager(), client_id(1)), [], "nor sent by another server")
        self.assertEqual(len(self.take(manager, client_id(2))), 1)

    def test_each_client_that_it_is_sent_to_is_told_to_collectors(self) -> None:
        self.add_clients(2)
        self.create(broadcast())
        heard = RecordingServerStats()
        manager = self.manager(stats=ServerStats([heard], self.clock))
        for _ in range(2):
            for one in (client_id(1), client_id(2)):
                self.take(manager, one)
        self.assertEqual(heard.calls("broadcast_sent"), [(broadcast().broadcast_id,)] * 2)
        self.assertEqual([call[1] for call in heard.calls("message_saved")], [True, True])

    def test_labels(self) -> None:
        """server-core 6, sending 2."""
        self.add_clients(1)
        self.create(broadcast(1, "linux"))
        manager = self.manager()
        self.assertFalse(manager.may_have(client_id(1), frozenset()))
        self.assertFalse(manager.may_have(client_id(1), frozenset({Label("other", "linux")})))
        self.assertEqual(len(self.take(manager, client_id(1), LINUX)), 1)

    def test_tokens(self) -> None:
        """One that a client has no token for waits for the token, whatever came before it."""
        self.add_clients(1)
        self.create(broadcast(1))
        self.create(broadcast(2))
        manager = self.manager()
        self.assertEqual(self.take(manager, client_id(1), tokens={}), [])
        self.assertEqual(len(self.take(manager, client_id(1), tokens={"service": 1})), 1)
        self.assertEqual(len(self.take(manager, client_id(1), tokens={"service": 1})), 1)
        self.assertFalse(manager.may_have(client_id(1), frozenset()))

    def test_it_is_not_sent_after_it_expired(self) -> None:
        """server-core 6, sending 2."""
        self.add_clients(1)
        made = broadcast()
        made.expiration_time.FromNanoseconds(START_NS + 10**9)
        self.create(made)
        manager = self.manager()
        self.clock.advance(1)
        self.assertEqual(self.take(manager, client_id(1)), [])

    def test_a_store_that_fails_fails_no_contact(self) -> None:
        """server-core 6, sending 4."""
        self.add_clients(1)
        self.create(broadcast(), 1)
        manager = self.manager()
        held: Deferred[Any] = Deferred()
        self.patch(self.store, "save_broadcast_messages", lambda sends: held)
        taking = Deferred.fromCoroutine(manager.take(client_id(1), frozenset(), None, ""))
        held.errback(StoreError("the disk is full"))
        self.assertEqual(self.successResultOf(taking), [])
        self.patch(self.store, "save_broadcast_messages", lambda sends: Deferred())
        cancelled = Deferred.fromCoroutine(manager.take(client_id(1), frozenset(), None, ""))
        cancelled.cancel()
        self.failureResultOf(cancelled)
        self.patch(self.store, "save_broadcast_messages", MemoryStore.save_broadcast_messages.__get__(self.store))
        self.assertEqual(len(self.take(manager, client_id(1))), 1, "what was reserved is free again")


class RefreshTests(ManagerCase):
    def test_a_change_here_is_seen_at_once_and_elsewhere_after_a_look(self) -> None:
        """server-core 6, refresh 2."""
        self.add_clients(3)
        here, there = self.manager(), self.manager()
        self.create(broadcast())
        here.refresh_soon()
        self.assertEqual(len(self.take(here, client_id(1))), 1)
        self.assertEqual(self.take(there, client_id(2)), [])
        self.clock.advance(LOOK)
        self.assertEqual(len(self.take(there, client_id(2))), 1)
        self.successResultOf(self.store.pause_broadcasts([broadcast().broadcast_id]))
        self.assertEqual(self.take(there, client_id(3)), [], "the store refuses it at once")
        self.successResultOf(self.store.resume_broadcasts([broadcast().broadcast_id]))
        self.clock.advance(LOOK)
        self.assertEqual(len(self.take(there, client_id(3))), 1)

    def test_a_share_that_is_used_up_is_followed_by_another(self) -> None:
        """server-core 6, refresh 1 and 3."""
        clients = self.add_clients(40)
        self.create(broadcast(), 30)
        manager = self.manager()
        for _ in range(40):
            for one in clients:
                self.take(manager, one)
            self.pass_time(0.2)
        self.assertEqual(self.sent(), 30, "the whole limit, and no more")
        self.assertEqual(self.accounted(), [])

    def test_shares_are_given_back_at_stop(self) -> None:
        """server-core 6, refresh 6."""
        self.add_clients(1)
        self.create(broadcast(1), 10)
        self.create(broadcast(2))
        manager = self.manager()
        self.take(manager, client_id(1))
        self.assertEqual(self.accounted(), [0, 0])
        self.stop(manager)
        self.assertEqual(self.accounted(), [1, 1])
        found = self.successResultOf(self.store.allocate_broadcast(broadcast(1).broadcast_id, 1.0, 0))
        assert found is not None
        self.assertEqual(found.limit, 9)

    def test_what_a_crashed_server_held_comes_back(self) -> None:
        """server-core 6."""
        self.add_clients(1)
        self.create(broadcast(), 1)
        crashed = self.manager()
        del crashed
        self.clock = Clock()  # nothing of it happens any more
        start = START_NS

        def later() -> int:
            return start + int(self.clock.seconds() * 10**9)

        self.now_ns = later  # type: ignore[method-assign]
        manager = self.manager()
        self.assertEqual(self.take(manager, client_id(1)), [])
        for _ in range(25):
            self.clock.advance(60)
        self.assertEqual(len(self.take(manager, client_id(1))), 1)

    def test_unlimited_ones_are_accounted_for_at_each_refresh(self) -> None:
        """server-core 6, refresh 3."""
        self.add_clients(2)
        self.create(broadcast())
        manager = self.manager()
        self.take(manager, client_id(1))
        self.pass_time(62)
        self.assertEqual(self.accounted(), [1])
        self.take(manager, client_id(2))
        self.stop(manager)
        self.assertEqual(self.accounted(), [2])

    def test_too_many_errors_stop_it(self) -> None:
        self.add_clients(3)
        self.create(broadcast(), max_errors=2)
        manager = self.manager()
        for number in (1, 2):
            [message] = self.take(manager, client_id(number))
            failed = common.MessageResult(failed=True, failed_reason="no")
            failed.processed_time.FromNanoseconds(self.now_ns())
            self.successResultOf(self.store.set_message_results([ResultUpdate(message.message_id, failed)]))
        with capturedLogs() as logs:
            self.clock.advance(LOOK)
        self.assertEqual([event["log_format"].split("} ")[1][:11] for event in logs], ["was stopped"])
        self.assertEqual(self.take(manager, client_id(3)), [])
        self.assertEqual(self.accounted(), [])

    def test_a_store_that_fails_is_asked_again(self) -> None:
        self.add_clients(1)
        manager = self.manager()
        self.create(broadcast())
        failing: Deferred[Any] = Deferred()
        failing.errback(StoreError("gone"))
        real = self.store.active_broadcast_ids
        answers: list[Callable[[], Any]] = [lambda: failing]
        self.patch(self.store, "active_broadcast_ids", lambda: (answers.pop() if answers else real)())
        self.clock.advance(LOOK)
        self.assertEqual(self.take(manager, client_id(1)), [])
        self.clock.advance(LOOK)
        self.assertEqual(len(self.take(manager, client_id(1))), 1)


class SpreadTests(ManagerCase):
    def connect(self, manager_of: dict[str, BroadcastManager], dispatcher: Dispatcher, one: ClientId) -> None:
        """A stream that looks as soon as it is woken."""
        dispatcher.register(one, lambda: self.got.extend(self.take(manager_of["it"], one)))

    def begin(self, clients: int, limit: int, rate: float) -> None:
        self.got: list[common.Message] = []
        dispatcher, manager = Dispatcher(), {}
        manager["it"] = self.manager(dispatcher, rate=rate)
        for one in self.add_clients(clients):
            self.connect(manager, dispatcher, one)
        self.create(broadcast(), limit)
        manager["it"].refresh_soon()

    def test_connected_clients_get_it_at_the_rate(self) -> None:
        """server-core 6, refresh 5."""
        self.begin(100, UNLIMITED, rate=20)
        self.assertEqual(len(self.got), 1)
        self.pass_time(2)
        self.assertTrue(38 <= len(self.got) <= 42, len(self.got))
        self.pass_time(3.2)
        self.assertEqual(len(self.got), 100)

    def test_a_thousand_with_a_limit_in_less_than_5_seconds(self) -> None:
        """Although the server gets the limit in many shares."""
        self.begin(1000, 1000, rate=500)
        self.pass_time(5)
        self.assertEqual(len(self.got), 1000)


class CrashTests(ManagerCase):
    """Issue 4, 3: never over the limit, under any interleaving and crash."""

    def test_three_servers_killed_at_random(self) -> None:
        for seed in range(12):
            self.setUp()
            self.fleet(random.Random(seed))

    def fleet(self, chance: random.Random) -> None:
        clients = self.add_clients(60)
        self.create(broadcast(), 40)
        clocks = [Clock(), Clock(), Clock()]
        servers = [self.begin(clock) for clock in clocks]
        killed = 0
        for _ in range(1200):
            index = chance.randrange(3)
            what = chance.random()
            if what < 0.04:
                killed += 1
                clocks[index] = Clock()  # its timers never fire again, and nothing is given back
                servers[index] = self.begin(clocks[index])
            elif what < 0.05:
                self.stop(servers[index])
                servers[index] = self.begin(clocks[index])
            elif what < 0.5:
                taken = Deferred.fromCoroutine(servers[index].take(chance.choice(clients), frozenset(), None, ""))
                self.successResultOf(taken)
            else:
                seconds = chance.choice([0.1, 1, 30])
                self.clock.advance(seconds)
                for clock in clocks:
                    clock.advance(seconds)
            self.assertLessEqual(self.sent(), 40)
        self.assertGreater(killed, 10)
        for one in clients * 3:
            for server in servers:
                self.successResultOf(Deferred.fromCoroutine(server.take(one, frozenset(), None, "")))
            for clock in (self.clock, *clocks):
                clock.advance(60)
        self.assertEqual(self.sent(), 40, "what the killed ones held was sent by others")

    def begin(self, clock: Clock) -> BroadcastManager:
        made = BroadcastManager(self.store, Dispatcher(), clock, self.now_ns, uniform=lambda: 0.0)
        self.successResultOf(Deferred.fromCoroutine(made.start()))
        return made


class ContactTests(SynchronousTestCase):
    """Through the contact pipeline (server-core.md 2.4)."""

    def setUp(self) -> None:
        self.world = World()
        self.alice = identity("alice")

    def poll(self, wake: Callable[[], None] | None = None, **fields: Any) -> Any:
        return self.successResultOf(
            Deferred.fromCoroutine(self.world.contacts.first(ADDRESS, self.alice, wrapped(**fields), wake))
        )

    def begin(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.world.broadcasts.start()))

    def test_a_new_client_gets_those_for_its_claimed_labels(self) -> None:
        """server-core 6."""
        self.world.now(self.world.store.create_broadcast(broadcast(1, "linux"), UNLIMITED))
        self.world.now(self.world.store.create_broadcast(broadcast(2, "windows"), UNLIMITED))
        self.begin()
        session, messages = self.poll(labels=["linux"], tokens={"service": 3})
        self.assertEqual([message.message_type for message in messages], ["Note"])
        self.assertEqual(session.tokens.limits(), {"service": 2})
        self.assertEqual(len(self.world.pending(self.alice.client_id)), 1, "it comes again unless acknowledged")
        self.assertEqual(self.poll(labels=["linux"])[1], [])

    def test_a_stream_gets_those_that_come_later(self) -> None:
        """server-https.md 4.5: also when the stream began with what was in the cache."""
        self.begin()
        woken: list[None] = []
        session, messages = self.poll(wake=lambda: woken.append(None))
        self.assertEqual(messages, [])
        self.world.now(self.world.store.create_broadcast(broadcast(), UNLIMITED))
        self.world.broadcasts.refresh_soon()
        self.assertEqual(len(woken), 1)
        self.world.now(self.world.store.store_messages([for_client(self.alice.client_id)]))
        found = self.successResultOf(Deferred.fromCoroutine(self.world.contacts.look(session)))
        self.assertEqual([message.message_type for message in found], ["Hello", "Note"])

    def test_a_blacklisted_client_gets_none(self) -> None:
        self.world.now(self.world.store.add_client(self.alice.client_id, ClientData(self.alice.key, blacklisted=True)))
        self.world.now(self.world.store.create_broadcast(broadcast(), UNLIMITED))
        self.begin()
        _, [message] = self.poll()
        self.assertEqual(message.message_type, "RekeyRequest")
