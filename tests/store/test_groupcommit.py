"""Group commit: what joins a batch, and who gets which outcome."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import InvalidRecord, StoreError
from fleetspeak.store.sql import groupcommit
from fleetspeak.store.sql.groupcommit import CALL_BYTES, Again, Call, Queue, Unavailable, carry_out


class Database:
    """A list of numbers with transactions and a savepoint, which fails where it is told to."""

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.working: list[int] = []
        self.saved: list[int] | None = None
        self.fails_at: str | None = None
        self.lost = 0
        """So many commits are lost yet."""
        self.patience = 50
        self.begun = 0

    def begin(self) -> None:
        self._step("begin")
        self.begun += 1
        self.working = list(self.committed)

    def commit(self) -> None:
        self._step("commit")
        assert self.saved is None
        if self.lost:
            self.lost -= 1
            raise Again("somebody else was quicker")
        self.committed = self.working

    def savepoint(self) -> None:
        self.saved = list(self.working)

    def release(self) -> None:
        assert self.saved is not None
        self.saved = None

    def undo(self) -> None:
        assert self.saved is not None
        self.working, self.saved = self.saved, None

    def roll_back(self) -> None:
        self.working, self.saved = [], None

    def again(self, tries: int) -> bool:
        return tries < self.patience

    def _step(self, name: str) -> None:
        if self.fails_at == name:
            raise Unavailable(f"{name} fails")


def append(database: Database, items: list[int]) -> list[int]:
    """Appends numbers, but no negative ones; gives their doubles."""
    for item in items:
        database.working.append(item)
        if item < 0:
            raise InvalidRecord(f"{item} is negative")
    return [2 * item for item in items]


def append_also(database: Database, items: list[int]) -> list[int]:
    """The same, but another operation; it does not think of errors."""
    for item in items:
        database.working.append(item)
        if item < 0:
            raise ZeroDivisionError(item)
    return [3 * item for item in items]


def lose(database: Database, items: list[int]) -> list[int]:
    """The disk is gone."""
    raise Unavailable("the disk is gone")


def call(operation: Any, *items: int, size: int = 0) -> Call:
    return Call(operation, list(items), size, list, lambda _: None)


calls = st.lists(
    st.tuples(st.sampled_from([append, append_also]), st.lists(st.integers(-2, 9), min_size=1, max_size=4)),
    max_size=12,
)


class CarryOutTests(SynchronousTestCase):
    """One transaction, whatever is in it."""

    def test_a_lost_transaction_is_carried_out_anew(self) -> None:
        """As a whole, and only what the last one gave is handed out."""
        database = Database()
        database.lost = 3
        self.assertEqual(carry_out(database, [call(append, 1, 2), call(append_also, 3)]), [[2, 4], [9]])
        self.assertEqual((database.committed, database.begun), ([1, 2, 3], 4))

    def test_not_for_ever(self) -> None:
        database = Database()
        database.lost, database.patience = 10, 5
        [[outcome]] = carry_out(database, [call(append, 1)])
        self.assertIsInstance(outcome, Again)
        self.assertEqual((database.committed, database.begun), ([], 5))

    @settings(max_examples=150, deadline=None)
    @given(calls)
    def test_each_request_succeeds_or_fails_for_itself(self, made: Any) -> None:
        """Whatever the mixture: bad requests fail alone, the others are kept, and outcomes are in order."""
        database = Database()
        waiting = [call(operation, *items) for operation, items in made]
        outcomes = carry_out(database, waiting)
        self.assertEqual(len(outcomes), len(made))
        for (operation, items), of_call in zip(made, outcomes, strict=True):
            factor = 2 if operation is append else 3
            for item, outcome in zip(items, of_call, strict=True):
                if item < 0:
                    self.assertIsInstance(outcome, StoreError)
                    self.assertIn(str(item), str(outcome))
                else:
                    self.assertEqual(outcome, factor * item)
        first = made[0][0] if made else append
        in_order = [operation for operation in (append, append_also) if operation is first]
        in_order += [operation for operation in (append, append_also) if operation is not first]
        expected = [
            item
            for wanted in in_order
            for operation, items in made
            if operation is wanted
            for item in items
            if item >= 0
        ]
        self.assertEqual(database.committed, expected)
        self.assertEqual(database.begun, 1)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_nothing_is_done_twice_when_all_is_well(self) -> None:
        seen: list[list[int]] = []

        def note(database: Database, items: list[int]) -> list[None]:
            seen.append(items)
            return [None] * len(items)

        carry_out(Database(), [call(note, 1, 2), call(append, 7), call(note, 3)])
        self.assertEqual(seen, [[1, 2, 3]])

    def test_one_bad_request_is_found_by_halves(self) -> None:
        seen: list[int] = []

        def picky(database: Database, items: list[int]) -> list[None]:
            seen.append(len(items))
            return [None for item in append(database, items)]

        outcomes = carry_out(Database(), [call(picky, number) for number in [*range(255), -1]])
        self.assertEqual([len(of_call) for of_call in outcomes], [1] * 256)
        self.assertIsInstance(outcomes[-1][0], InvalidRecord)
        self.assertEqual(sum(not isinstance(one, StoreError) for [one] in outcomes), 255)
        self.assertEqual(len(seen), 17)

    def test_a_transaction_that_cannot_begin_or_commit_fails_everyone(self) -> None:
        for step in ("begin", "commit"):
            database = Database()
            database.fails_at = step
            outcomes = carry_out(database, [call(append, 1, 2), call(append, 3)])
            self.assertEqual(
                [[type(one) for one in of_call] for of_call in outcomes], [[Unavailable] * 2, [Unavailable]]
            )
            self.assertEqual(database.committed, [])
            errors = [one for of_call in outcomes for one in of_call]
            self.assertEqual(len({id(error) for error in errors}), 3, "each caller gets an error of its own")
            database.fails_at = None
            self.assertEqual(carry_out(database, [call(append, 4)]), [[8]])
            self.assertEqual(database.committed, [4])

    def test_a_disk_that_goes_away_within_fails_everyone(self) -> None:
        database = Database()
        outcomes = carry_out(database, [call(append, 1), call(lose, 2), call(append, 3)])
        self.assertTrue(all(isinstance(one, Unavailable) for of_call in outcomes for one in of_call))
        self.assertEqual(database.committed, [])

    def test_an_operation_must_answer_each_request(self) -> None:
        def forgetful(database: Database, items: list[int]) -> list[int]:
            return items[:1]

        [[first, second]] = carry_out(Database(), [call(forgetful, 1, 2)])
        self.assertEqual((first, second), (1, 2))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class QueueTests(SynchronousTestCase):
    """What waits, and what is taken."""

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 600), st.integers(0, 6 << 20)), max_size=30))
    def test_batches(self, shapes: list[tuple[int, int]]) -> None:
        """Batches keep the order and the limits, and nothing is lost."""
        queue = Queue(max_bytes=1 << 40)
        waiting = [call(append, *range(items), size=size) for items, size in shapes]
        for one in waiting:
            queue.add(one)
        taken: list[Call] = []
        while batch := queue.take():
            if len(batch) > 1:
                self.assertLessEqual(sum(len(one.items) for one in batch), groupcommit.MAX_BATCH_ITEMS)
                self.assertLessEqual(sum(one.size for one in batch), groupcommit.MAX_BATCH_BYTES)
            taken += batch
        self.assertEqual(taken, waiting)
        self.assertEqual(len(queue), 0)

    def test_full(self) -> None:
        """What is too much is refused at once, and accepted again as soon as there is room."""
        queue = Queue(max_calls=2)
        queue.add(call(append, 1))
        queue.add(call(append, 2))
        with self.assertRaises(StoreError) as caught:
            queue.add(call(append, 3))
        self.assertIn("overloaded", str(caught.exception))
        queue.take()
        queue.add(call(append, 3))

    def test_full_by_bytes(self) -> None:
        queue = Queue(max_bytes=3 * CALL_BYTES)
        large = call(append, 1, size=5 * CALL_BYTES)
        queue.add(large)  # nothing else waits
        with self.assertRaises(StoreError):
            queue.add(call(append, 2))
        self.assertTrue(queue.remove(large))
        queue.add(call(append, 2, size=CALL_BYTES))
        with self.assertRaises(StoreError):
            queue.add(call(append, 3, size=CALL_BYTES))

    def test_taken_back(self) -> None:
        queue = Queue()
        first, second = call(append, 1), call(append, 2)
        queue.add(first)
        queue.add(second)
        self.assertTrue(queue.remove(first))
        self.assertFalse(queue.remove(first))
        self.assertEqual(queue.take(), [second])
        self.assertEqual(queue.take(), [])

    def test_take_all(self) -> None:
        queue = Queue()
        waiting = [call(append, number) for number in range(1000)]
        for one in waiting:
            queue.add(one)
        self.assertEqual(queue.take_all(), waiting)
        self.assertEqual(len(queue), 0)


class CallTests(SynchronousTestCase):
    """From outcomes to the caller."""

    def test_fire(self) -> None:
        one = call(append, 1, 2)
        one.fire([2, 4])
        self.assertEqual(self.successResultOf(one.done), [2, 4])

    def test_finish_may_fail(self) -> None:
        def finish(outcomes: list[Any]) -> Any:
            raise outcomes[0]

        one = Call(append, [-1], 0, finish, lambda _: None)
        one.fire([InvalidRecord("no")])
        self.failureResultOf(one.done, InvalidRecord)

    def test_a_caller_that_has_given_up_is_left_alone(self) -> None:
        taken_back: list[Call] = []
        one = Call(append, [1], 0, list, taken_back.append)
        one.done.cancel()
        self.failureResultOf(one.done, CancelledError)
        self.assertEqual(taken_back, [one])
        one.fire([2])
