"""What the server may still send to each service, and the beacon that tells the communicator to say so."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from fleetspeak.core.flow import FlowCounters


class Flow:
    """The flow counters of all inboxes, and who waits for a beacon."""

    def __init__(self, counters: FlowCounters | None = None) -> None:
        self._counters = counters or FlowCounters()
        self._beacon = False
        self._listeners: list[Deferred[None]] = []

    def add_service(self, name: str) -> None:
        """Begin to count, or go on where the counters stood: they outlive a restart."""
        self._counters.add_service(name)

    def remove_service(self, name: str) -> None:
        """Grant nothing for this service any more."""
        self._counters.remove_service(name)

    def accepted(self, name: str) -> None:
        """A message of the server went into the inbox."""
        self._counters.accepted(name)

    def processed(self, name: str) -> None:
        """A message of the server left the inbox."""
        if self._counters.processed(name):
            listeners, self._listeners = self._listeners, []
            self._beacon = not listeners
            for listener in listeners:
                listener.callback(None)

    def tokens(self, *, first: bool) -> dict[str, int]:
        """What may be sent, by service: absolute if `first`, else what was freed since the last time."""
        self._beacon = False
        return self._counters.absolute() if first else self._counters.increments()

    def when_beacon(self) -> Deferred[None]:
        """Fires when the server should hear of freed tokens though there is no message.  Cancellable."""
        if self._beacon:
            return succeed(None)
        listener: Deferred[None] = Deferred(self._listeners.remove)
        self._listeners.append(listener)
        return listener
