"""Is the socket the one that the client of our own user made?  And when to try again if there is none."""

from __future__ import annotations

import os

from fleetspeak.wire import socketfile

FIRST_DELAY = 1.0
"""Seconds until the second attempt to connect; the figures of the Go programs."""

FACTOR = 1.5
"""By which each further delay is longer."""

LONGEST_DELAY = 15.0
"""Seconds; no delay is longer."""


ANSWER_TIME = 5.0
"""Seconds that a client gets to answer, at least, if somebody listens at all."""


class NotRunning(ConnectionError):
    """Nobody listens at the socket: the client is not running (yet), or lacks this service."""


class UnsafeSocket(ConnectionError):
    """Somebody else may have made the socket, or may reach it; it is not connected to."""


class ConnectionClosed(ConnectionError):
    """The connection was closed, by this process or by the end of the client."""


def check(path: str) -> None:
    """Look at the socket's file and its directory, which is how we know that the client made it.

    @raise ValueError: no socket can have this path.
    @raise NotRunning: there is none.
    @raise UnsafeSocket: its owner or its mode is not what the client gives it.
    """
    problem = socketfile.problem_with_path(path)
    if problem:
        raise ValueError(problem)
    uid, gid = os.geteuid(), os.getegid()
    problem = socketfile.problem_with_parent(path, _look(os.path.dirname(path), path), uid, gid)
    problem = problem or socketfile.problem_with_socket(path, _look(path, path), uid, gid)
    if problem:
        raise UnsafeSocket(problem)


class Delays:
    """The waits of one series of attempts: 1, 1.5, 2.25, ... 15 s."""

    def __init__(self) -> None:
        self._next = FIRST_DELAY

    def next(self) -> float:
        """Seconds until the next attempt."""
        delay = self._next
        self._next = min(LONGEST_DELAY, delay * FACTOR)
        return delay

    def reset(self) -> None:
        """An attempt has succeeded: the next series begins anew."""
        self._next = FIRST_DELAY


def _look(what: str, path: str) -> os.stat_result:
    try:
        return os.lstat(what)
    except (FileNotFoundError, NotADirectoryError):
        raise NotRunning(f"there is no socket {path}: the client is not running yet") from None
