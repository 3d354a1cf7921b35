"""Waiting for the first of several things, or for a while; all of it can be cancelled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


def sleep(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Fires after so many seconds."""
    slept: Deferred[None] = Deferred(lambda _: call.cancel())
    call = clock.callLater(max(seconds, 0), slept.callback, None)
    return slept


def first_of(waits: Iterable[Deferred[None]]) -> Deferred[None]:
    """Fires when the first of them does, with its failure if it fails; the others are cancelled."""
    pending = list(waits)
    decided = False

    def cancel_all() -> None:
        nonlocal decided
        decided = True
        for wait in pending:
            wait.cancel()

    def one_fired(outcome: Any) -> None:
        if not decided:
            cancel_all()
            done.callback(outcome)

    done: Deferred[None] = Deferred(lambda _: cancel_all())
    for wait in pending:
        wait.addBoth(one_fired)
    return done


class Bell:
    """Wakes whoever waits; rung while nobody does, the next one to wait is woken at once."""

    def __init__(self) -> None:
        self._rung = False
        self._waiting: Deferred[None] | None = None

    def ring(self) -> None:
        """Wake."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._rung = True
        else:
            waiting.callback(None)

    def wait(self) -> Deferred[None]:
        """Fires at the next ring.  One at a time may wait."""
        rung: Deferred[None] = Deferred(self._gone)
        if self._rung:
            self._rung = False
            rung.callback(None)
        else:
            self._waiting = rung
        return rung

    def _gone(self, _: Deferred[None]) -> None:
        self._waiting = None


class Waiters:
    """Any number of those who wait for the same thing, once."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """Fires at the next release.  Cancellable."""
        released: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(released)
        return released

    @property
    def any(self) -> bool:
        """Does anybody wait?"""
        return bool(self._waiting)

    def release(self) -> None:
        """It has happened."""
        while self._waiting:
            self._waiting.pop(0).callback(None)
