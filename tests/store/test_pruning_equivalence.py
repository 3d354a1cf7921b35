"""Whatever there is and whatever is pruned, the stores have the same left, and nothing that had to stay is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import NotFound, StoreError
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Exchange, Label, Prunable, Prune
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    C3,
    SECOND,
    from_client,
    message_id,
    poll,
    success,
    timestamp,
    to_client,
)
from fleetspeak.testing.storecontract.broadcasts import broadcast, broadcast_id, send
from fleetspeak.testing.storecontract.retention import DAY, NOW, usage
from tests.mariadb import the_server
from tests.store.doubles import ToldStore
from tests.store.test_mysql import ToldMysqlStore

Told = ToldStore | ToldMysqlStore
CLIENTS = (C1, C2, C3)
MESSAGES = range(1, 25)
BROADCASTS = range(4)

days = st.integers(1, 6000).map(lambda hundredths: hundredths / 100)
clients = st.sampled_from(CLIENTS)
a_message = st.tuples(st.just("message"), days, clients, st.sampled_from(MESSAGES), days | st.none())
events = st.one_of(
    *(a_message for _ in range(6)),
    st.tuples(st.just("contact"), days, clients, st.lists(st.sampled_from(MESSAGES), max_size=3)),
    st.tuples(st.just("usage"), days, clients, st.integers(1, 4)),
    st.tuples(st.just("broadcast"), days, st.sampled_from(BROADCASTS), st.none() | days, st.sampled_from([0, 1, 5])),
    st.tuples(st.just("send"), days, clients, st.sampled_from(BROADCASTS)),
    st.tuples(st.just("disable"), days, st.sampled_from(BROADCASTS)),
    st.tuples(st.just("pause"), days, st.sampled_from(BROADCASTS)),
    st.tuples(st.just("blacklist"), days, clients),
)
kinds = st.sampled_from([kind for kind in Prunable if kind is not Prunable.AUDIT]) | st.just(Prunable.MESSAGES)
prunes = st.lists(st.tuples(kinds, days, st.integers(1, 8)), min_size=1, max_size=6)


class World:
    """One store, and what happens to it, with the clock of all of them."""

    def __init__(self, make: Callable[[Callable[[], int]], Any], perform: Callable[[Any], None]) -> None:
        self.now = (NOW - 100 * DAY) * SECOND
        self.store: Any = make(lambda: self.now)
        self._perform = perform
        self.done(self.store.open())
        for client_id in CLIENTS:
            self.done(self.store.add_client(client_id, ClientData(b"key", frozenset({Label("client", "x")}))))

    def done(self, call: Deferred[Any]) -> Any:
        """What came of it; a StoreError as its class."""
        found: list[Any] = []
        call.addBoth(found.append)
        for _ in range(6):
            self._perform(self.store)
        [outcome] = found
        if hasattr(outcome, "type"):
            outcome.trap(StoreError)
            return outcome.type
        return outcome

    def happen(self, event: tuple[Any, ...]) -> None:
        """Let something happen at its time."""
        what, ago, *rest = event
        self.now = round((NOW - ago * DAY) * SECOND)
        getattr(self, f"_{what}")(*rest)

    def _contact(self, client_id: Any, numbers: list[int]) -> None:
        created = self.now / SECOND
        messages = [from_client(number, client_id, created=created) for number in dict.fromkeys(numbers)]
        self.done(self.store.exchange([Exchange(messages, poll(client_id))]))

    def _usage(self, client_id: Any, count: int) -> None:
        for number in range(count):
            self.done(self.store.record_resource_usage(client_id, usage(1 + number)))

    def _message(self, client_id: Any, number: int, processed: float | None) -> None:
        make = to_client if number % 2 else from_client
        message = make(number, client_id, created=self.now / SECOND)
        if processed is not None:
            message.result.CopyFrom(success(NOW - processed * DAY))
        self.done(self.store.store_messages([message]))

    def _broadcast(self, number: int, expiry: float | None, limit: int) -> None:
        label = common.Label(service_name="client", label="x")
        made = broadcast(number, required_labels=[label])
        if expiry is not None:
            made.expiration_time.CopyFrom(timestamp(NOW - expiry * DAY))
        self.done(self.store.create_broadcast(made, limit))

    def _send(self, client_id: Any, number: int) -> None:
        identity = 100 + number * 10 + CLIENTS.index(client_id)
        self.done(self.store.save_broadcast_messages([send(identity, number, None, client_id)]))

    def _disable(self, number: int) -> None:
        self.done(self.store.disable_broadcasts([broadcast_id(number)]))

    def _pause(self, number: int) -> None:
        self.done(self.store.pause_broadcasts([broadcast_id(number)]))

    def _blacklist(self, client_id: Any) -> None:
        self.done(self.store.blacklist_client(client_id))

    def prune(self, kind: Prunable, ago: float, rows: int) -> dict[str, int]:
        """To the end; by table, without links, which go at other times where they do not refer to messages."""
        total: Counter[str] = Counter()
        position: str | None = ""
        for _ in range(500):
            pruned = self.done(self.store.prune(Prune(kind, round((NOW - ago * DAY) * SECOND), position or "", rows)))
            total.update(pruned.rows)
            position = pruned.position
            if position is None:
                break
        assert position is None, "there is no end"
        total.pop("client_contact_messages", None)
        return dict(total)

    def messages(self) -> dict[int, common.Message]:
        """Those that there are."""
        found = {}
        for number in MESSAGES:
            [message] = self._or_none(self.store.get_messages([message_id(number)], False))
            if message is not None:
                found[number] = message
        return found

    def _or_none(self, call: Deferred[Any]) -> list[Any]:
        outcome = self.done(call)
        return [None] if outcome is NotFound else outcome

    def left(self) -> list[Any]:
        """All that can be read, comparable."""
        store: IStore = self.store
        listed = sorted(self.done(store.list_clients([])), key=attrgetter("client_id"))
        return [
            self.messages(),
            [(one.client_id, one.blacklisted, one.last_contact_time, list(one.labels)) for one in listed],
            [
                [(entry.contact, entry.time_ns) for entry in self.done(store.client_contacts(one, 0, 1000))]
                for one in CLIENTS
            ],
            [self.done(store.resource_usage(one, 0, 2 * NOW * SECOND)) for one in CLIENTS],
            self.done(store.sent_broadcasts(CLIENTS)),
            self.done(store.active_broadcast_ids()),
            [self.done(store.allocate_broadcast(broadcast_id(n), 0.0, 1)) is NotFound for n in BROADCASTS],
        ]


class EquivalenceTests(SynchronousTestCase):
    def compare(self, told: World, happened: list[Any], asked: list[tuple[Prunable, float, int]]) -> None:
        memory = World(lambda now: MemoryStore(now_ns=now, uniform=lambda: 0.5), lambda store: None)
        for event in sorted(happened, key=lambda event: -float(event[1])):
            memory.happen(event)
            told.happen(event)
        memory.now = told.now = NOW * SECOND
        before = memory.messages()
        for kind, ago, rows in asked:
            self.assertEqual(told.prune(kind, ago, rows), memory.prune(kind, ago, rows), kind)
        self.assert_nothing_else_gone(before, told.messages(), asked)
        self.assertEqual(told.left(), memory.left())

    def assert_nothing_else_gone(
        self,
        before: dict[int, common.Message],
        left: dict[int, common.Message],
        asked: list[tuple[Prunable, float, int]],
    ) -> None:
        ages: dict[Prunable, float] = {}
        for kind, ago, _ in asked:
            ages[kind] = min(ago, ages.get(kind, ago))
        for number in before.keys() - left.keys():
            message = before[number]
            if message.HasField("result"):
                wanted = [ages[kind] for kind in (Prunable.MESSAGES, Prunable.MESSAGES_OF_CLIENTS) if kind in ages]
                self.assertLess(message.result.processed_time.seconds, NOW - min(wanted) * DAY)
            else:
                wanted = [ages[Prunable.PENDING_MESSAGES]]
            self.assertLess(message.creation_time.seconds, NOW - min(wanted) * DAY)

    @given(st.lists(events, min_size=12, max_size=30), prunes)
    @settings(max_examples=20, deadline=None)
    def test_sqlite(self, happened: list[Any], asked: list[tuple[Prunable, float, int]]) -> None:
        path = self.mktemp()
        told = World(lambda now: ToldStore(path, now_ns=now, uniform=lambda: 0.5), ToldStore.perform)
        self.compare(told, happened, asked)
        told.store.close()

    @given(st.lists(events, min_size=12, max_size=30), prunes)
    @settings(max_examples=5, deadline=None)
    def test_mysql(self, happened: list[Any], asked: list[tuple[Prunable, float, int]]) -> None:
        database = the_server().new_database()
        told = World(lambda now: ToldMysqlStore(database.dsn, now_ns=now, uniform=lambda: 0.5), ToldMysqlStore.perform)
        try:
            self.compare(told, happened, asked)
        finally:
            told.store.close()
            database.drop()
