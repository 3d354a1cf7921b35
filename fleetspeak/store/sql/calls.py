"""How a method of a store becomes a call that waits for its worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from fleetspeak.errors import StoreError
from fleetspeak.store.sql.groupcommit import Call, Operation, Outcome
from fleetspeak.store.sql.workers import Worker

T = TypeVar("T")
R = TypeVar("R")


def tried(convert: Callable[[T], R], item: T) -> R | StoreError:
    """What `convert` makes of `item`, or how it failed."""
    try:
        return convert(item)
    except StoreError as error:
        return error


def _submit(worker: Worker, call: Call) -> Deferred[Any]:
    try:
        worker.submit(call)
    except StoreError:
        return fail()
    return call.done


def one(worker: Worker, operation: Operation[Any], item: object, size: int = 0) -> Deferred[Any]:
    """Have one request of a plural operation carried out; gives its outcome."""
    return _submit(worker, Call(operation, [item], size, _only, worker.take_back))


def each(worker: Worker, operation: Operation[Any], items: Sequence[object], size: int = 0) -> Deferred[list[Any]]:
    """Have requests carried out, those that failed before apart; gives all outcomes."""
    ready = [item for item in items if not isinstance(item, StoreError)]
    if not ready:
        return succeed(list(items))
    finish: Callable[[list[Outcome]], list[Outcome]] = list if len(ready) == len(items) else partial(_filled_in, items)
    return _submit(worker, Call(operation, ready, size, finish, worker.take_back))


def plain(worker: Worker, work: Callable[[Any], object], size: int = 0) -> Deferred[Any]:
    """Have `work` done, which takes the database; gives what it returns."""
    return _submit(worker, Call(_work_off, [work], size, _only, worker.take_back))


def _work_off(database: Any, works: Sequence[Callable[[Any], object]]) -> list[object]:
    return [work(database) for work in works]


def _only(outcomes: list[Outcome]) -> Outcome:
    (outcome,) = outcomes
    if isinstance(outcome, StoreError):
        raise outcome
    return outcome


def _filled_in(items: Sequence[object], outcomes: list[Outcome]) -> list[Outcome]:
    left = iter(outcomes)
    return [item if isinstance(item, StoreError) else next(left) for item in items]
