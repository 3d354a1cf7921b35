"""What collectors hear of one message with its service."""

from __future__ import annotations

from fleetspeak.pb import common
from fleetspeak.records import ClientData
from fleetspeak.server.stats import ServerStats


class Attempt:
    """One message on its way through a service; made only if somebody listens."""

    __slots__ = ("_began", "_client", "_first_try", "_message", "_service", "_stats")

    def __init__(
        self, stats: ServerStats, message: common.Message, service: str, client: ClientData | None, first_try: bool
    ) -> None:
        """The message is ingested now."""
        self._stats = stats
        self._message = message
        self._service = service
        self._client = client
        self._first_try = first_try
        stats.message_ingested(message, not first_try, client)
        self._began = stats.seconds()

    def begin(self) -> None:
        """It has waited in line; only now is the service called."""
        self._began = self._stats.seconds()

    def processed(self) -> None:
        """The service has processed it."""
        seconds = self._stats.seconds() - self._began
        self._stats.message_processed(self._message, self._service, seconds, self._first_try, self._client)

    def errored(self, temporary: bool) -> None:
        """The service has not."""
        seconds = self._stats.seconds() - self._began
        self._stats.message_errored(self._message, self._service, seconds, temporary, self._first_try, self._client)

    def dropped(self) -> None:
        """The service has too much to do."""
        self._stats.message_dropped(self._message, self._service, self._first_try, self._client)
