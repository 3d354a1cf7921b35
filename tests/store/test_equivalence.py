"""Whatever is asked of them, the store in memory, the SQLite store and the MySQL store answer the same.

And group commit shows nowhere: a batch of calls gives what the same calls give one after the other.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IStore
from fleetspeak.listings import ClientFilter, Flag, MessageFilter, MessageKey, MessageState, Span
from fleetspeak.records import Ack, Claim, ClientData, Contact, ContactEntry, Exchange, Label, ResultUpdate, RetryLimits
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    C3,
    SECOND,
    failure,
    from_client,
    message_id,
    poll,
    success,
    to_client,
)
from tests.mariadb import the_server
from tests.store.doubles import ToldStore
from tests.store.test_mysql import ToldMysqlStore

Ask = Callable[[IStore], Deferred[Any]]
Told = ToldStore | ToldMysqlStore

STRANGER = ClientId(b"stranger")
"""Nobody adds this client."""

clients = st.sampled_from([C1, C2, C3])
message_numbers = st.integers(0, 7)
results = st.sampled_from([None, success(1), success(2), failure(3, "first"), failure(4, "second")])


@st.composite
def messages(draw: st.DrawFn, message_numbers: st.SearchStrategy[int] = message_numbers) -> Any:
    """A message of one of a few ids, for a client or a server service, perhaps with a result, rarely a bad one."""
    number = draw(message_numbers)
    client = (C1, C2, C3)[number % 3]
    if number < 4:
        message = to_client(number, client, service="ab"[number % 2], created=1 + number // 2)
        message.message_type = ("Die", "RekeyRequest", "x")[number % 3]
        if number == 0:
            message.destination.service_name = "system"
        if number == 1:
            message.source.service_name = "system"
    else:
        message = from_client(number, client, created=1 + number // 2)
    result = draw(results)
    if result is not None:
        message.result.CopyFrom(result)
    if draw(st.integers(0, 30)) == 0:
        message.ClearField("creation_time")
    return message


message_lists = st.lists(messages(), max_size=4)
claims = st.builds(
    Claim, clients, st.integers(0, 3), st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2)
)
contacts = st.builds(
    Contact, clients | st.just(STRANGER), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["a", "b"])
)
new_clients = st.builds(
    ClientData,
    st.sampled_from([b"key", b"key", b"other"]),
    st.frozensets(st.builds(Label, st.just("client"), st.sampled_from("xyz"))),
)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """Anything that does not depend on the order within a batch: steps are carried out for all before the next one.

    So whoever may be enrolled is, and messages for clients are stored by other calls.
    """
    contact = draw(st.none() | contacts)
    sent = draw(st.lists(messages(st.integers(4, 7)), max_size=4))
    return Exchange(
        sent,
        contact,
        # Whether there is such a contact matters only for what is linked to it.
        draw(st.sampled_from(["", "1", "999"])) if contact is None and sent else "",
        draw(new_clients) if contact is not None and contact.client_id != STRANGER else None,
        draw(st.none() | claims),
    )


def asking(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    return st.tuples(st.just(name), st.tuples(*arguments))


message_ids = st.lists(message_numbers.map(message_id), max_size=3)
updates = st.builds(ResultUpdate, message_numbers.map(message_id), st.sampled_from([success(7), failure(8)]))
retry_limits = st.builds(
    RetryLimits, st.just(120 * SECOND), st.none() | st.just(1010 * SECOND), st.none() | st.integers(1, 3)
)
file_names = st.sampled_from(["x", "y", "n" * 129])
asks = st.one_of(
    asking("exchange", st.lists(exchanges(), min_size=1, max_size=2)),
    asking("exchange", st.lists(exchanges(), min_size=1, max_size=2)),
    asking("store_messages", message_lists),
    asking("store_messages", st.lists(messages(), min_size=1, max_size=4), st.sampled_from(["", "1", "999"])),
    asking("acknowledge", st.lists(st.builds(Ack, clients, message_ids), max_size=2)),
    asking("set_message_results", st.lists(updates, max_size=3)),
    asking("client_messages_for_processing", st.lists(claims, max_size=3)),
    asking("delete_pending_messages", st.lists(clients, max_size=2)),
    asking("record_contacts", st.lists(contacts, max_size=3)),
    asking("overdue_messages", st.integers(1, 3)),
    asking("overdue_messages", st.integers(1, 3), st.just({"TestServiceName": 1}), retry_limits),
    asking("retry_messages", message_ids),
    asking("add_client", clients, new_clients),
    asking("blacklist_client", clients),
    asking("cancel_messages", message_ids, st.sampled_from(["", "no more", "ä" * 40_000])),
    asking("unblacklist_clients", st.lists(clients, max_size=2)),
    asking("store_file", st.just("a"), file_names, st.binary(max_size=3)),
    asking("delete_file", st.just("a"), file_names),
)

BEHIND = MessageKey(3, 0, message_id(4))
message_filters = [
    *(MessageFilter(state=state) for state in MessageState),
    MessageFilter(service="a", created=Span(None, 3 * SECOND)),
    MessageFilter(message_type="x", created=Span(2 * SECOND, None)),
]


class EquivalenceTests(SynchronousTestCase):
    """Random calls, in random batches."""

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.lists(asks, max_size=5), st.integers(0, 20)), max_size=4))
    def test_same_answers(self, batches: list[tuple[list[tuple[str, tuple[Any, ...]]], int]]) -> None:
        folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        try:
            self.compare_answers(
                lambda now_ns, uniform: ToldStore(os.path.join(folder, "store"), now_ns=now_ns, uniform=uniform),
                batches,
            )
        finally:
            shutil.rmtree(folder)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.tuples(st.lists(asks, max_size=5), st.integers(0, 20)), max_size=4))
    def test_same_answers_on_mysql(self, batches: list[tuple[list[tuple[str, tuple[Any, ...]]], int]]) -> None:
        database = the_server().new_database()
        try:
            self.compare_answers(
                lambda now_ns, uniform: ToldMysqlStore(database.dsn, now_ns=now_ns, uniform=uniform), batches
            )
        finally:
            database.drop()

    def compare_answers(
        self,
        make: Callable[..., Told],
        batches: list[tuple[list[tuple[str, tuple[Any, ...]]], int]],
    ) -> None:
        now = 1000 * SECOND
        sql = make(lambda: now, lambda: 0.5)
        memory = MemoryStore(now_ns=lambda: now, uniform=lambda: 0.5)
        for store in (sql, memory):
            self.successResultOf(store.open())
        try:
            self.compare(sql, memory, [("add_client", (C1, ClientData(b"key"))), ("record_contacts", ([poll()],))])
            for batch, minutes in batches:
                self.compare(sql, memory, batch)
                now += minutes * 60 * SECOND
            self.compare_all(sql, memory)
        finally:
            self.successResultOf(sql.close())

    def compare(
        self, sql: ToldStore | ToldMysqlStore, memory: MemoryStore, batch: list[tuple[str, tuple[Any, ...]]]
    ) -> None:
        """A batch on SQLite; on the memory one call after the other, in the order batches are carried out in."""
        waiting = [(name, getattr(sql, name)(*copy.deepcopy(arguments))) for name, arguments in batch]
        # What can be refused, or is nothing to do, has come back already, and decides on no order.
        kinds = list(dict.fromkeys(_operation(name) for name, call in waiting if not call.called))
        kinds += list(dict.fromkeys(_operation(name) for name, call in waiting))
        sql.perform()
        order = sorted(range(len(batch)), key=lambda index: kinds.index(_operation(batch[index][0])))
        expected = {}
        for index in order:
            name, arguments = batch[index]
            expected[index] = _outcome(getattr(memory, name)(*copy.deepcopy(arguments)), sql)
        found = [_outcome(call, sql) for _, call in waiting]
        self.assertEqual(found, [expected[index] for index in range(len(batch))])

    def compare_all(self, sql: Told, memory: MemoryStore) -> None:
        """Everything that can be read."""
        for ask in (
            lambda store: store.pending_messages([C1, C2, C3], want_data=True),
            lambda store: store.message_results([message_id(number) for number in range(8)]),
            lambda store: store.client_data([C1, C2, C3]),
            lambda store: store.next_overdue(),
            lambda store: store.dead_message_counts(),
            *(lambda store, one=one: store.read_file("a", one) for one in "xy"),
            *(lambda store, one=one: store.stat_file("a", one) for one in "xy"),
            *(lambda store, one=one: store.get_messages([message_id(one)], True) for one in range(8)),
            *(lambda store, one=one: store.client_contacts(one, 0, 100) for one in (C1, C2, C3)),
            *(lambda store, one=one: store.message_page(one, None, 5) for one in message_filters),
            *(
                lambda store, one=one: store.message_page(one, MessageKey(3, 0, message_id(4)), 5)
                for one in message_filters
            ),
            *(lambda store, one=one: store.message_counts(one) for one in message_filters),
            lambda store: store.client_page(ClientFilter((Label("client", "x"),), blacklisted=Flag.NONE), b"", 2),
            lambda store: store.client_counts(1001 * SECOND),
            lambda store: store.file_page("", ("a", "x"), 5),
            lambda store: store.list_clients([]).addCallback(sorted, key=attrgetter("client_id")),
        ):
            answer = ask(sql)
            sql.perform()
            self.assertEqual(_outcome(answer, sql), _outcome(ask(memory), sql))


def _operation(name: str) -> str:
    """What is carried out together under one name."""
    plain = (
        "delete_pending_messages",
        "overdue_messages",
        "retry_messages",
        "add_client",
        "blacklist_client",
        "unblacklist_clients",
        "cancel_messages",
        "store_file",
        "delete_file",
    )
    return "plain" if name in plain else name


def _outcome(call: Deferred[Any], sql: Told) -> Any:
    """What a call gave, comparable: errors by their type, contacts without numbers where these may have gaps."""
    found: list[Any] = []
    call.addBoth(found.append)
    [outcome] = found
    if isinstance(outcome, list):
        plain = _plain if isinstance(sql, ToldStore) else _plain_without_numbers
        return [type(one) if isinstance(one, StoreError) else plain(one) for one in outcome]
    return outcome.type if hasattr(outcome, "type") else outcome


def _plain(one: Any) -> Any:
    return (one.contact_id, list(one.messages)) if hasattr(one, "contact_id") else one


def _plain_without_numbers(one: Any) -> Any:
    """MySQL gives no number again that a transaction had which was undone."""
    if hasattr(one, "contact_id"):
        return bool(one.contact_id), list(one.messages)
    if isinstance(one, ContactEntry):
        return one.contact, one.time_ns
    return bool(one) if isinstance(one, str) else one
