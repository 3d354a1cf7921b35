"""The socket that processes connect to: its file, with the access that it must have, and one connection at a time."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.errors import ConfigError
from fleetspeak.wire import socketfile

BACKLOG = 50
"""Connections that may wait for the present one to end."""

ACCEPT_RETRY = 1.0
"""Seconds until another try after a connection could not be accepted (as in the Go client)."""


class SocketFile:
    """A listening socket under a path, which never shows there with access for others."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._bound: tuple[int, int] | None = None

    def bind(self) -> socket.socket:
        """Make what is missing of the directory, replace an old socket, and listen.

        @raise ConfigError: somebody else may reach into the directory, or the path is in use for something else.
        @raise OSError: the system does not let us.
        """
        _make_directory(Path(self._path).parent)
        _check(socketfile.problem_with_parent, self._path, os.path.dirname(self._path))
        temporary = self._path + socketfile.TEMPORARY
        for old in (self._path, temporary):
            _remove_socket(old)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.bind(temporary)
            os.chmod(temporary, 0o600)
            listening.listen(BACKLOG)
            os.rename(temporary, self._path)
            _check(socketfile.problem_with_socket, self._path, self._path)
        except BaseException:
            listening.close()
            raise
        self._bound = _identity(os.lstat(self._path))
        return listening

    def remove(self) -> None:
        """Remove the file, unless another program has put its own there since."""
        try:
            if _identity(os.lstat(self._path)) == self._bound:
                os.unlink(self._path)
        except FileNotFoundError:
            return


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Who has connected, as the kernel says."""

    pid: int
    """0 if it is in no namespace that we see."""
    uid: int

    @property
    def trusted(self) -> bool:
        """Is it a process of our own user, or of the superuser?"""
        return self.uid in (os.geteuid(), 0)


def credentials_of(connection: socket.socket) -> PeerCredentials | None:
    """Of the process at the other end; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    pid, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, option, 12))
    return PeerCredentials(pid, uid)


@implementer(IReadDescriptor)
class Listener:
    """Accepts one connection each time it is asked to; the others wait in the system's queue."""

    _log = Logger()

    def __init__(self, reactor: Any, listening: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        self._reactor = reactor
        self._socket = listening
        self._accepted = accepted
        self._pause: IDelayedCall | None = None
        self._closed = False

    def accept_one(self) -> None:
        """Give the next connection to `accepted`, when there is one; it must be closed there."""
        self._pause = None
        if not self._closed:
            self._reactor.addReader(self)

    def retry(self, error: OSError) -> None:
        """The system lacks something, such as descriptors: try again in a while."""
        self._log.error("cannot accept a connection, trying again: {error}", error=error)
        self._reactor.removeReader(self)
        self._pause = self._reactor.callLater(ACCEPT_RETRY, self.accept_one)

    def close(self) -> None:
        """Accept no more; whoever waits is turned away."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._reactor.removeReader(self)
        self._socket.close()

    # ---- what the reactor tells

    def fileno(self) -> int:
        """Of the listening socket."""
        return self._socket.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """What the reactor calls us."""
        return type(self).__name__

    def doRead(self) -> None:  # noqa: N802
        """Somebody wants to connect."""
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # gone again
        except OSError as error:
            self.retry(error)
            return
        self._reactor.removeReader(self)
        connection.setblocking(False)
        self._accepted(connection)

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """The reactor ends, or cannot watch the socket."""
        self.close()


def _make_directory(directory: Path) -> None:
    """Make it and what is missing above it, for us alone."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(0o700, exist_ok=True)


def _remove_socket(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} is in the way: it is {stat.filemode(status.st_mode)}, no old socket")
    os.unlink(path)


def _check(problem_with: Callable[[str, os.stat_result, int, int], str], path: str, what: str) -> None:
    problem = problem_with(path, os.lstat(what), os.geteuid(), os.getegid())
    if problem:
        raise ConfigError(problem)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
