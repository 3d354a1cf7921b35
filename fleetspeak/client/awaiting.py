"""Turns what plug-ins may return (nothing, a Deferred, a coroutine) into one thing to wait for."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime


def as_deferred(outcome: Awaitable[None] | None) -> Deferred[None]:
    """A Deferred of that outcome; cancelling it cancels what runs."""
    if outcome is None:
        return succeed(None)
    if isinstance(outcome, Deferred):
        return outcome
    return Deferred.fromCoroutine(_wait(outcome))


def within(seconds: float, outcome: Awaitable[None] | None, clock: IReactorTime) -> Deferred[None]:
    """The same, cancelled after so many seconds, which gives twisted.internet.defer.TimeoutError."""
    return as_deferred(outcome).addTimeout(seconds, clock)


async def _wait(outcome: Awaitable[None]) -> None:
    await outcome
