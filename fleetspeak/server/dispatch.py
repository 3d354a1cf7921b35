"""Which client has a stream to this process, and how to wake it."""

from __future__ import annotations

from collections.abc import Callable

from fleetspeak.ids import ClientId
from fleetspeak.records import ClientData
from fleetspeak.server.stats import NO_STATS, ServerStats

Refresh = Callable[[ClientData], bool]


class Registration:
    """The place of one stream in the dispatcher."""

    __slots__ = ("_client_id", "_dispatcher", "refresh", "wake")

    def __init__(self, dispatcher: Dispatcher, client_id: ClientId, wake: Callable[[], None], refresh: Refresh) -> None:
        self._dispatcher = dispatcher
        self._client_id = client_id
        self.wake = wake
        self.refresh = refresh

    def cancel(self) -> None:
        """Give the place back, unless a newer stream has it already.  Safe to call twice."""
        self._dispatcher.forget(self._client_id, self)


class Dispatcher:
    """Wakes the stream of a client.  All in the reactor's thread.

    There is one place for each client id: a newer stream takes over from an older one.
    """

    def __init__(self, stats: ServerStats = NO_STATS) -> None:
        self._stats = stats
        self._registrations: dict[ClientId, Registration] = {}

    def __len__(self) -> int:
        return len(self._registrations)

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._registrations

    def register(
        self, client_id: ClientId, wake: Callable[[], None], refresh: Refresh = lambda client: False
    ) -> Registration:
        """Have `wake` called for each message that becomes due for this client.

        `wake` must come back at once: it notes that there is something, and no more.

        @param refresh: told what is known of the client, whether or not that is new; says whether it is.
        """
        registration = Registration(self, client_id, wake, refresh)
        self._registrations[client_id] = registration
        self._stats.streams_changed(len(self._registrations))
        return registration

    def client_ids(self) -> list[ClientId]:
        """The clients that have a stream here."""
        return list(self._registrations)

    def dispatch(self, client_id: ClientId) -> bool:
        """Wake the client's stream.  Returns False if there is none here."""
        registration = self._registrations.get(client_id)
        if registration is None:
            return False
        registration.wake()
        return True

    def refresh(self, client_id: ClientId, client: ClientData) -> None:
        """Tell the client's stream what is known of the client; it looks for messages if that is new."""
        registration = self._registrations.get(client_id)
        if registration is not None and registration.refresh(client):
            registration.wake()

    def forget(self, client_id: ClientId, registration: Registration) -> None:
        """Take `registration` out if it is still the current one."""
        if self._registrations.get(client_id) is registration:
            del self._registrations[client_id]
            self._stats.streams_changed(len(self._registrations))
