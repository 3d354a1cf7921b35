"""How a process ends: cleanly on a signal, and with the exit status that tells why."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, Protocol

from twisted.internet.error import ReactorNotRunning

STOPPED = 0
FAILED = 1
TOO_LONELY = 2
"""The client could not reach any server for too long."""
DIED = 7
"""The server asked the client for it."""


class Ending(Protocol):
    """Who can end the process."""

    def begin(self) -> None:
        """The program starts: ending is asked for by signals too from now on."""

    def end(self, status: int) -> None:
        """Stop cleanly, then exit with this status; of several calls the first status that is not 0 counts."""

    def abort(self, status: int) -> None:
        """Exit now, without stopping anything."""


class ProcessEnd:
    """Ends a process that runs a reactor, whether twistd or anything else called `reactor.run`.

    twistd has no way to choose an exit status: it returns 0, and after SIGTERM kills itself with the same signal.
    So the signals are handled here, as a plain `reactor.stop`, and a status other than 0 is put in at the last
    moment, when all else is done (pid file removed, threads joined).
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._status = STOPPED

    def begin(self) -> None:
        """See `Ending`.  Takes the signals now, and once more when the reactor runs, which then has set its own."""
        self._take_signals()
        self._reactor.callWhenRunning(self._take_signals)

    def end(self, status: int) -> None:
        """See `Ending`.  May be called before the reactor runs."""
        if status and not self._status:
            self._status = status
            atexit.register(self.abort, status)
        self._reactor.callWhenRunning(self._stop_reactor)

    def abort(self, status: int) -> None:
        """See `Ending`."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # it is closed, and we are leaving
        os._exit(status)

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop_reactor)

    def _stop_reactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it is stopping already
            self._reactor.stop()
