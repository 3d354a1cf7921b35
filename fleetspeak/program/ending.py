"""How a process ends: cleanly on a signal, and with the exit status that tells why."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from fleetspeak.program import dumps
from fleetspeak.program.deadline import Deadline
from fleetspeak.program.lastacts import exit_now

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

    def stuck(self, why: str) -> None:
        """Something does not stop: write down where every thread is, for whoever wants to know why."""


class ProcessEnd:
    """Ends a process that runs a reactor, whether twistd or anything else called `reactor.run`.

    twistd has no way to choose an exit status: it returns 0, and after SIGTERM kills itself with the same signal.
    So the signals are handled here, as a plain `reactor.stop`, and a status other than 0 is put in at the last
    moment, when all else is done (pid file removed, threads joined).
    """

    _log = Logger()

    def __init__(self, reactor: Any, *, limit: float | None = None, profile_dir: Path | None = None) -> None:
        """
        @param limit: seconds that ending may take; then the process exits with status 1, also if the reactor hangs.
        @param profile_dir: where the stacks of all threads go in that case; and a heap profile on SIGUSR1, which
            without it is not handled.
        """
        self._reactor = reactor
        self._status = STOPPED
        self._limit = limit
        self._profile_dir = profile_dir
        self._deadline = None if limit is None else Deadline(limit, self._overdue)

    def begin(self) -> None:
        """See `Ending`.  Takes the signals now, and once more when the reactor runs, which then has set its own.

        A crash, and SIGABRT, which is how systemd ends what does not feed its watchdog, write the stacks to standard
        error.
        """
        faulthandler.enable(file=2)
        if self._deadline is not None:
            self._deadline.start()
        self._take_signals()
        self._reactor.callWhenRunning(self._take_signals)

    def end(self, status: int) -> None:
        """See `Ending`.  May be called before the reactor runs."""
        if status and not self._status:
            self._status = status
            atexit.register(self.abort, status)
        self._run_deadline()
        self._reactor.callWhenRunning(self._stop_reactor)

    def abort(self, status: int) -> None:
        """See `Ending`."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # it is closed, and we are leaving
        exit_now(status)

    def stuck(self, why: str) -> None:
        """See `Ending`.  Any thread; says on standard error where it wrote."""
        if self._profile_dir is None:
            return
        text = f"{why}\n{dumps.stacks()}{dumps.pending_calls(self._reactor)}"
        try:
            path = dumps.dump(self._profile_dir, "goroutine", text)
        except OSError as error:
            dumps.complain(f"{why}; stack traces could not be written: {error}")
        else:
            dumps.complain(f"{why}; stack traces are in {path}")

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._profile_dir is not None:
            signal.signal(signal.SIGUSR1, self._on_profile)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._run_deadline()
        self._reactor.callFromThread(self._stop_reactor)

    def _on_profile(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._write_profile)

    def _write_profile(self) -> None:
        assert self._profile_dir is not None, "the signal is taken only with it"
        try:
            path = dumps.dump(self._profile_dir, "heap", dumps.heap())
        except OSError as error:
            self._log.error("the heap profile could not be written: {error}", error=error)
        else:
            self._log.info("wrote a heap profile to {path}", path=path)

    def _run_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.run()

    def _overdue(self) -> None:
        try:
            self.stuck(f"did not end within {self._limit:.0f} s")
        finally:
            exit_now(FAILED)

    def _stop_reactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it is stopping already
            self._reactor.stop()
