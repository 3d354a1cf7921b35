"""Broadcasts in memory and in SQLite: the same answers, and never more than the limit."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import NotSent, StoreError
from fleetspeak.ids import ClientId
from fleetspeak.records import UNLIMITED, BroadcastSend, ClientData, ResultUpdate
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.storecontract.base import SECOND, failure, message_id
from fleetspeak.testing.storecontract.broadcasts import broadcast, broadcast_id, send
from tests.store.doubles import ToldStore

CLIENTS = [ClientId(number.to_bytes(8, "big")) for number in range(1, 9)]
LIMITS = [3, 6, UNLIMITED]
numbers = st.integers(0, 40)
sends = st.lists(st.tuples(st.integers(0, 3), numbers, st.sampled_from([*CLIENTS, ClientId(b"stranger")])), max_size=6)
steps = st.one_of(
    st.tuples(st.just("allocate"), st.integers(0, 3), st.floats(0, 2)),
    st.tuples(st.just("allocate"), st.integers(0, 3), st.floats(0, 2)),
    st.tuples(st.just("save"), sends),
    st.tuples(st.just("save"), sends),
    st.tuples(st.just("clean_up"), numbers, st.integers(0, 0)),
    st.tuples(st.just("sweep"), st.integers(0, 400)),
    st.tuples(st.sampled_from(["disable", "pause", "pause", "resume", "resume"]), st.integers(0, 3)),
    st.tuples(st.just("let_fail"), numbers),
    st.tuples(st.just("wait"), st.integers(1, 200)),
)


class BroadcastEquivalenceTests(SynchronousTestCase):
    @settings(max_examples=50, deadline=None)
    @given(st.lists(steps, max_size=14))
    def test_same_answers_and_never_over_the_limit(self, steps: list[Any]) -> None:
        self.now = 1000 * SECOND
        folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        sql = ToldStore(os.path.join(folder, "store"), now_ns=lambda: self.now, uniform=lambda: 0.5)
        self.stores: list[Any] = [sql, MemoryStore(now_ns=lambda: self.now, uniform=lambda: 0.5)]
        self.shares: list[Any] = []
        self.messages = 0
        for store in self.stores:
            self.successResultOf(store.open())
        try:
            for client_id in CLIENTS:
                self.both(lambda store, one=client_id: store.add_client(one, ClientData(b"key")))
            for number, limit in enumerate(LIMITS):
                self.both(lambda store, n=number, limit=limit: store.create_broadcast(broadcast(n), limit))
            for name, *arguments in steps:
                getattr(self, name)(*arguments)
                self.check()
        finally:
            self.successResultOf(sql.close())
            shutil.rmtree(folder)

    def both(self, ask: Any, compare: bool = True) -> list[Any]:
        """What both stores answer, which is the same."""
        answers = []
        for store in self.stores:
            call, found = ask(store), []
            call.addBoth(found.append)
            if isinstance(store, ToldStore):
                store.perform()
            [answer] = found
            if isinstance(answer, list):
                answer = [_shown(one) for one in answer]
            answers.append(answer.type if hasattr(answer, "value") else answer)
        if compare:
            self.assertEqual(*answers)
        return answers

    def allocate(self, number: int, fraction: float) -> None:
        expiry = self.now + 100 * SECOND
        answers = self.both(lambda store: store.allocate_broadcast(broadcast_id(number), fraction, expiry), False)
        sizes = [getattr(answer, "limit", answer) for answer in answers]
        self.assertEqual(sizes[0], sizes[1])
        if hasattr(answers[0], "limit"):
            self.shares.append((number, answers))

    def save(self, wanted: list[tuple[int, int, ClientId]]) -> None:
        by_store: list[list[BroadcastSend]] = [[], []]
        for number, pick, client_id in wanted:
            self.messages += 1
            if number != 2 and self.shares:
                number, allocations = self.shares[pick % len(self.shares)]
            elif number == 2:
                allocations = [None, None]
            else:
                continue
            for index, allocation in enumerate(allocations):
                by_store[index].append(send(self.messages, number, allocation, client_id))
        self.both(lambda store: store.save_broadcast_messages(by_store[self.stores.index(store)]))

    def clean_up(self, pick: int, sent: int) -> None:
        if self.shares:
            number, shares = self.shares[pick % len(self.shares)]
            self.both(
                lambda store: store.clean_up_allocation(
                    broadcast_id(number), shares[self.stores.index(store)].allocation_id, sent
                )
            )

    def sweep(self, age: int) -> None:
        self.both(lambda store: store.sweep_allocations(self.now - age * SECOND))

    def disable(self, number: int) -> None:
        self.both(lambda store: store.disable_broadcasts([broadcast_id(number)]))

    def pause(self, number: int) -> None:
        self.both(lambda store: store.pause_broadcasts([broadcast_id(number)]))

    def resume(self, number: int) -> None:
        self.both(lambda store: store.resume_broadcasts([broadcast_id(number)]))

    def let_fail(self, number: int) -> None:
        self.both(lambda store: store.set_message_results([ResultUpdate(message_id(number), failure(1))]))

    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND

    def check(self) -> None:
        self.both(lambda store: store.active_broadcasts())
        self.both(lambda store: store.active_broadcast_ids())
        self.both(lambda store: store.broadcast_errors([broadcast_id(number) for number in range(4)]))
        sent, _ = self.both(lambda store: store.sent_broadcasts(CLIENTS))
        for number, limit in enumerate(LIMITS):
            self.assertLessEqual(sum(broadcast_id(number) in of_one for of_one in sent.values()), limit)


def _shown(one: Any) -> Any:
    """Errors by their type, and what refuses a send by its text."""
    if isinstance(one, NotSent):
        return str(one)
    return type(one) if isinstance(one, StoreError) else one
