"""Small helpers around Deferreds and awaitables."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")


def as_deferred(awaitable: Awaitable[_T]) -> Deferred[_T]:
    """A Deferred of what `awaitable` will give, which can be cancelled."""
    if isinstance(awaitable, Deferred):
        return awaitable
    return Deferred.fromCoroutine(_await(awaitable))


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
