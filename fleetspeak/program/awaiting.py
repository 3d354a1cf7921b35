"""Turns what plug-ins may return (a Deferred, a coroutine, or nothing) into one thing to wait for."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

_T = TypeVar("_T")


def as_deferred(awaitable: Awaitable[_T]) -> Deferred[_T]:
    """A Deferred of what `awaitable` will give; cancelling it cancels what runs."""
    if isinstance(awaitable, Deferred):
        return awaitable
    return Deferred.fromCoroutine(_await(awaitable))


def outcome_of(returned: Awaitable[None] | None) -> Deferred[None]:
    """A Deferred of what a plug-in returned; None means that it is done already."""
    return succeed(None) if returned is None else as_deferred(returned)


def within(seconds: float, returned: Awaitable[None] | None, clock: IReactorTime) -> Deferred[None]:
    """The same, cancelled after so many seconds, which gives twisted.internet.defer.TimeoutError."""
    return outcome_of(returned).addTimeout(seconds, clock)


async def when_done(work: Deferred[_T]) -> None:
    """Wait until `work` has ended, in whatever way, and leave its result to others."""
    waiter: Deferred[None] = Deferred()

    def pass_on(result: _T) -> _T:
        waiter.callback(None)
        return result

    work.addBoth(pass_on)
    await waiter


def failure_of(error: BaseException) -> Failure:
    """`error` with its traceback, as the log wants it."""
    return Failure(error)  # type: ignore[no-untyped-call]


async def _await(awaitable: Awaitable[_T]) -> _T:
    return await awaitable
