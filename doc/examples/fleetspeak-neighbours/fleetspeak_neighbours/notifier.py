"""Notifications as datagrams between Unix sockets in one folder; the file name of a server's socket is its address."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IListener, INotifier, INotifierFactory

PREFIX = "neighbour-"
ADDRESS = re.compile(f"{PREFIX}[0-9a-f]{{16}}")
"""Addresses of others come from the database: one that is not like this is not made into a path."""

BROADCASTS = b"broadcasts"
"""The datagram that says that broadcasts have changed; any other is a client id."""

MAX_PATH = 100
"""Bytes; what the kernel takes for the name of a socket is a little more."""

log = Logger()


class Socket(DatagramProtocol):
    """A server's socket: hears, and sends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = PREFIX + secrets.token_hex(8)
        self.hear: Callable[[ClientId], object] = lambda client_id: None
        self.broadcasts_changed: Callable[[], object] = lambda: None

    def datagramReceived(self, datagram: bytes, address: Any) -> None:  # noqa: N802  (Twisted's name)
        """Whoever can write to the folder may send anything."""
        if datagram == BROADCASTS:
            self.broadcasts_changed()
        elif len(datagram) == ids.CLIENT_ID_SIZE:
            self.hear(ClientId(datagram))

    def send(self, datagram: bytes, name: str) -> bool:
        """Send without waiting: when the other one's queue is full, it has enough to do, and this one is lost.

        @return: False: nobody is there.
        """
        transport: Any = self.transport  # Twisted's types know only UDP here
        if transport is None:  # not started, or stopped
            return True
        try:
            transport.write(datagram, str(self.folder / name))
        except OSError as error:
            log.debug("server {name} cannot be notified: {error}", name=name, error=error)
            return False
        return True


@implementer(INotifier)
class Notifier:
    """Tells others."""

    reaches_others = True

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def notify(self, address: str, client_id: ClientId) -> None:
        """Comes back at once, and never fails.  `address` may be that of another kind of server, which is not here."""
        if ADDRESS.fullmatch(address):
            self._socket.send(client_id, address)

    def broadcasts_changed(self) -> None:
        """Tell all; the socket of a server that crashed is removed."""
        for path in self._socket.folder.glob(f"{PREFIX}*"):
            if path.name != self._socket.name and not self._socket.send(BROADCASTS, path.name):
                path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Nothing is under way."""


@implementer(IListener)
class Listener:
    """Hears from others."""

    def __init__(self, socket: Socket, reactor: Any) -> None:
        self._socket = socket
        self._reactor = reactor
        self._port: Any = None
        self.address = socket.name

    def start(self, hear: Callable[[ClientId], object], broadcasts_changed: Callable[[], object]) -> None:
        """Listen.  Raises ConfigError."""
        self._socket.hear, self._socket.broadcasts_changed = hear, broadcasts_changed
        try:
            self._port = self._reactor.listenUNIXDatagram(str(self._socket.folder / self.address), self._socket)
        except CannotListenError as error:
            raise ConfigError(f"neighbours: {error}") from error

    def stop(self) -> Deferred[None]:
        """Close the socket, and remove its file."""
        closing = maybeDeferred(self._port.stopListening)
        return closing.addCallback(lambda _: (self._socket.folder / self.address).unlink(missing_ok=True))


@implementer(INotifierFactory)
class NeighboursFactory:
    """Makes the pair of ``--notifier neighbours:FOLDER``."""

    name = "neighbours"
    help = "Between servers of one machine, through sockets in the folder that is the argument, which is only theirs."

    def make(self, argument: str, secret: bytes | None, reactor: Any) -> tuple[Notifier, Listener]:
        """No secret is needed: the folder keeps others out, which is made sure of here."""
        folder = Path(argument).absolute()
        if not argument or not folder.is_dir():
            raise ConfigError("neighbours takes a folder that all servers share, such as neighbours:/run/fleetspeak")
        if folder.stat().st_mode & 0o077:
            raise ConfigError(f"neighbours: others may use {folder}; do: chmod 700 {folder}")
        if len(str(folder).encode()) > MAX_PATH - len(PREFIX) - 17:
            raise ConfigError(f"neighbours: the name of {folder} is too long for sockets in it")
        socket = Socket(folder)
        return Notifier(socket), Listener(socket, reactor)
