"""What connections of both kinds have in common: waiting for a change, and iterating."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from fleetspeak.client_connector.socketfile import ConnectionClosed
from fleetspeak.pb import common


class Waiters:
    """Those who wait for something to change, and look again each time it has."""

    def __init__(self) -> None:
        self._waiting: dict[Deferred[None], Callable[[], bool]] = {}
        self.closed: Exception | None = None
        """Why nothing will change any more."""

    def wait_for(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires when it is true.  Fails with `closed`, if that comes first.  Cancellable."""
        waiter: Deferred[None] = Deferred(self._waiting.__delitem__)
        if condition():
            waiter.callback(None)
        elif self.closed is not None:
            waiter.errback(self.closed)
        else:
            self._waiting[waiter] = condition
        return waiter

    def look(self) -> None:
        """Something has changed.  What one of them does may change it for the next."""
        for waiter, condition in list(self._waiting.items()):
            if waiter in self._waiting and condition():
                del self._waiting[waiter]
                waiter.callback(None)

    def close(self, error: Exception) -> None:
        """Nothing will change any more."""
        self.closed = self.closed or error
        self.look()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.errback(self.closed)

    def raise_if_closed(self) -> None:
        """Raises what `close` was given."""
        if self.closed is not None:
            raise self.closed


class Iterating:
    """Makes an async iterator of `receive`, which ends with the connection."""

    def receive(self) -> Deferred[common.Message]:
        raise NotImplementedError

    def __anext__(self) -> Deferred[common.Message]:
        return self.receive().addErrback(_stop_iteration)


def _stop_iteration(failure: Failure) -> common.Message:
    failure.trap(ConnectionClosed)  # type: ignore[no-untyped-call]
    raise StopAsyncIteration
