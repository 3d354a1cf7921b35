"""Notification within one process: for a server that is alone."""

from __future__ import annotations

from collections.abc import Awaitable

from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import INotifier
from fleetspeak.server.dispatch import Dispatcher

LOCAL = "local"

log = Logger()


@implementer(INotifier)
class LocalNotifier:
    """Hands notifications to the dispatcher of this process."""

    address = LOCAL

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def notify(self, address: str, client_id: ClientId) -> Awaitable[None] | None:
        """Wake the client's stream if it is here; other servers cannot be reached."""
        if address == LOCAL:
            self._dispatcher.dispatch(client_id)
        else:
            log.warn(
                "client {client_id} has its stream at {address}, which this server has no way to notify: "
                "its message waits for its next contact",
                client_id=ids.show(client_id),
                address=address,
            )
        return None
