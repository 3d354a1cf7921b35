"""How the server's process ends: cleanly on a signal, and with status 1 if it could not start."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType
from typing import Any

from twisted.internet.error import ReactorNotRunning


class ProcessEnd:
    """Ends a process that runs a reactor, whether twistd or anything else called `reactor.run`.

    twistd has no way to choose an exit status: it returns 0, and after SIGTERM kills itself with the same signal.
    So the signals are handled here, as a plain `reactor.stop`, and a status other than 0 is put in at the last
    moment, when all else is done (pid file removed, threads joined).
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def take_signals(self) -> None:
        """Handle SIGTERM and SIGINT.  To be called when the reactor runs, which has set handlers of its own."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def fail(self) -> None:
        """Stop cleanly, then exit with status 1."""
        atexit.register(_exit_with_failure)
        self._stop_reactor()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop_reactor)

    def _stop_reactor(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            return  # it is stopping already


def _exit_with_failure() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # it is closed, and we are leaving
    os._exit(1)
