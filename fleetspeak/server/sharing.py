"""Work that is done once for all who ask for it at about the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

T = TypeVar("T")


class Shared(Generic[T]):
    """Does one piece of work at a time; its result counts for a while, a failure only for those who wait."""

    def __init__(self, work: Callable[[], Deferred[T]], least_age: float, seconds: Callable[[], float]) -> None:
        """
        @param least_age: for so many seconds a result is handed out to whoever asks.
        @param seconds: a steady clock.
        """
        self._work = work
        self._least_age = least_age
        self._seconds = seconds
        self._result: T | None = None
        self._until = float("-inf")
        self._waiting: list[Deferred[T]] | None = None
        """Who waits for the work that is under way; None if none is."""

    def get(self) -> Deferred[T]:
        """The result.  Whoever cancels it waits no more; the work goes on."""
        if self._seconds() < self._until:
            return succeed(cast("T", self._result))
        waiter: Deferred[T] = Deferred()
        if self._waiting is not None:
            self._waiting.append(waiter)
        else:
            self._waiting = [waiter]
            self._work().addBoth(self._done)
        return waiter

    def _done(self, result: Any) -> None:
        waiting, self._waiting = self._waiting, None
        if not isinstance(result, Failure):
            self._result, self._until = result, self._seconds() + self._least_age
        for waiter in waiting or ():
            if not waiter.called:
                waiter.callback(result)  # a failure fires the errbacks
