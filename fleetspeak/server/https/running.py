"""Which contacts are being worked on, so that a stop can wait for them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred


class Running:
    """Work in progress."""

    def __init__(self) -> None:
        self._work: set[Deferred[Any]] = set()
        self._waiters: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._work)

    def track(self, work: Deferred[Any]) -> None:
        """Count `work` until it is done.  Its result stays as it is."""
        if not work.called:
            self._work.add(work)
            work.addBoth(self._end, work)

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing is running."""
        waiter: Deferred[None] = Deferred()
        if self._work:
            self._waiters.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    def cancel(self) -> None:
        """Give all of it up."""
        for work in list(self._work):
            work.cancel()

    def _end(self, result: object, work: Deferred[Any]) -> object:
        self._work.discard(work)
        if not self._work:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.called:
                    waiter.callback(None)
        return result
