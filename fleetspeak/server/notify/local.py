"""Notification within one process: for a server that is alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IListener, INotifier
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.services.sparselog import SparseLog

LOCAL = "local"
"""The address of a server that no other one reaches."""

LOG_INTERVAL = 60.0
"""Seconds between two lines of one kind."""

log = Logger()


@implementer(INotifier)
class LocalNotifier:
    """Hands notifications to the dispatcher of this process."""

    reaches_others = False

    def __init__(self, dispatcher: Dispatcher, clock: Any) -> None:
        self._dispatcher = dispatcher
        self._sparse = SparseLog(clock, LOG_INTERVAL)

    def notify(self, address: str, client_id: ClientId) -> None:
        """Wake the client's stream if it is here; other servers cannot be reached."""
        if address == LOCAL:
            self._dispatcher.dispatch(client_id)
        elif self._sparse.due():
            log.warn(
                "client {client_id} has its stream at {address}, which this server has no way to notify: its message "
                "waits until the other server looks by itself ({held_back} more such lines were held back)",
                client_id=ids.show(client_id),
                address=address,
                held_back=self._sparse.take_held_back(),
            )

    def broadcasts_changed(self) -> None:
        """There is nobody else."""

    def stop(self) -> Awaitable[None] | None:
        """Nothing to end."""
        return None


@implementer(IListener)
class LocalListener:
    """Hears nothing, since nobody can reach it."""

    address = LOCAL

    def start(
        self, hear: Callable[[ClientId], object], broadcasts_changed: Callable[[], object]
    ) -> Awaitable[None] | None:
        """Nothing to begin."""
        return None

    def stop(self) -> Awaitable[None] | None:
        """Nothing to end."""
        return None
