"""Group commit: calls that wait for the database are carried out together, in one transaction.

No I/O here, and no thread: a bounded queue from which batches are taken; and how a batch is carried out on a
transaction, so that a caller whose request cannot be carried out fails alone.

Calls that wait at the same time are carried out in any order: those of one operation together, in the order in
which they came; the operations in the order of their first calls.  A caller who depends on an order waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fleetspeak.errors import StoreError

MAX_BATCH_ITEMS = 512
"""Most requests in one transaction, unless a single call has more."""

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Most bytes in one transaction, unless a single call has more: some thousand messages, a few tens of milliseconds."""

MAX_QUEUE_CALLS = 20_000
MAX_QUEUE_BYTES = 256 * 1024 * 1024
"""What may wait; more is refused at once, so that a slow disk does not end in a lack of memory."""

CALL_BYTES = 500
"""What a call counts for besides its records."""

DatabaseT = TypeVar("DatabaseT", bound="Transactional")
Outcome = Any
"""A result, or the StoreError in its place."""

Operation = Callable[[DatabaseT, list[Any]], Sequence[Outcome]]
"""Carries out many requests; gives their outcomes, or raises, and then none of them counts."""

log = Logger()


class Unavailable(StoreError):
    """The database fails, whatever is asked of it; the transaction is lost."""


class Again(Unavailable):
    """The transaction is lost by no fault of its own, and without effect: it may be tried again as it is."""


class Transactional(Protocol):
    """A database connection, as far as its transactions go.  All raise `Unavailable`, except the last one."""

    def begin(self) -> None: ...

    def commit(self) -> None: ...

    def savepoint(self) -> None: ...

    def release(self) -> None:
        """Keep what was done since the savepoint."""

    def undo(self) -> None:
        """Undo what was done since the savepoint, and end it."""

    def roll_back(self) -> None:
        """End the transaction without any effect.  Never raises."""

    def again(self, tries: int) -> bool:
        """Whether to carry out a batch anew that has raised `Again` so many times; waits for a good moment to."""


class Call:
    """One call of a store's method, with one request or several, that waits to be carried out."""

    __slots__ = ("done", "finish", "items", "operation", "size")

    def __init__(
        self,
        operation: Operation[Any],
        items: list[Any],
        size: int,
        finish: Callable[[list[Outcome]], object],
        take_back: Callable[[Call], None],
    ) -> None:
        """`finish` makes what `done` gives of the outcomes of `items`, or raises what it fails with; `take_back` is
        called when the caller gives up."""
        self.operation = operation
        self.items = items
        self.size = size + CALL_BYTES
        self.finish = finish
        self.done: Deferred[Any] = Deferred(lambda _: take_back(self))

    def fire(self, outcomes: list[Outcome]) -> None:
        """Hand the outcomes to the caller, unless it has given up."""
        if self.done.called:
            return
        try:
            result = self.finish(outcomes)
        except StoreError:
            self.done.errback()
        else:
            self.done.callback(result)


class Queue:
    """What waits to be carried out.  Not thread-safe."""

    def __init__(self, max_calls: int = MAX_QUEUE_CALLS, max_bytes: int = MAX_QUEUE_BYTES) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._calls: deque[Call] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def bytes(self) -> int:
        """That wait."""
        return self._bytes

    def add(self, call: Call) -> None:
        """Let `call` wait.  Raises StoreError if too much waits already."""
        if len(self._calls) >= self._max_calls or (self._calls and self._bytes + call.size > self._max_bytes):
            raise StoreError(
                f"the store is overloaded: {len(self._calls)} calls of {self._bytes} bytes wait for the disk; "
                "try again later"
            )
        self._calls.append(call)
        self._bytes += call.size

    def remove(self, call: Call) -> bool:
        """Take `call` back.  False: it does not wait any more."""
        try:
            self._calls.remove(call)
        except ValueError:
            return False
        self._bytes -= call.size
        return True

    def take_all(self) -> list[Call]:
        """All calls that wait."""
        calls = list(self._calls)
        self._calls.clear()
        self._bytes = 0
        return calls

    def take(self) -> list[Call]:
        """The next batch: calls in the order in which they came, up to the limits; at least one, if any waits."""
        batch: list[Call] = []
        items = size = 0
        while self._calls:
            call = self._calls[0]
            items += len(call.items)
            size += call.size
            if batch and (items > MAX_BATCH_ITEMS or size > MAX_BATCH_BYTES):
                break
            batch.append(self._calls.popleft())
            self._bytes -= call.size
        return batch


def carry_out(database: DatabaseT, calls: Sequence[Call]) -> list[list[Outcome]]:
    """Carry out a batch in one transaction.  Returns the outcomes of each call, in the order of `calls`.

    A transaction that is lost is carried out anew as a whole; what it gave before is forgotten, so no caller ever
    has outcomes of two of them.
    """
    tries = 0
    while True:
        try:
            return _carry_out_once(database, calls)
        except StoreError as error:
            database.roll_back()
            tries += 1
            if not (isinstance(error, Again) and database.again(tries)):
                return [[type(error)(*error.args) for _ in call.items] for call in calls]
        except Exception as error:  # the thread must live, and no caller may wait for ever
            log.failure("a transaction of the store failed in a way nobody thought of")
            database.roll_back()
            return [
                [StoreError(f"the store failed: {type(error).__name__}: {error}") for _ in call.items] for call in calls
            ]


def _carry_out_once(database: DatabaseT, calls: Sequence[Call]) -> list[list[Outcome]]:
    groups: dict[Operation[DatabaseT], list[int]] = {}
    for index, call in enumerate(calls):
        groups.setdefault(call.operation, []).append(index)
    outcomes: list[list[Outcome]] = [[] for _ in calls]
    database.begin()
    for operation, indices in groups.items():
        found = iter(_run_group(database, operation, list(chain.from_iterable(calls[i].items for i in indices))))
        for index in indices:
            outcomes[index] = [next(found) for _ in calls[index].items]
    database.commit()
    return outcomes


def _run_group(database: DatabaseT, operation: Operation[DatabaseT], items: list[Any]) -> Sequence[Outcome]:
    """Carry out requests together; if that fails, by halves, until those that fail are alone."""
    try:
        return _run(database, operation, items)
    except Unavailable:
        raise
    except StoreError as error:
        if len(items) == 1:
            return [error]
    half = len(items) // 2
    return [*_run_group(database, operation, items[:half]), *_run_group(database, operation, items[half:])]


def _run(database: DatabaseT, operation: Operation[DatabaseT], items: list[Any]) -> Sequence[Outcome]:
    database.savepoint()
    try:
        outcomes = operation(database, items)
        if len(outcomes) != len(items):
            raise RuntimeError(f"{operation} gave {len(outcomes)} outcomes for {len(items)} requests")
    except Unavailable:
        raise
    except StoreError:
        database.undo()
        raise
    except Exception as error:
        database.undo()
        log.failure("a request to the store failed in a way nobody thought of")
        raise StoreError(f"the store failed: {type(error).__name__}: {error}") from error
    database.release()
    return outcomes
