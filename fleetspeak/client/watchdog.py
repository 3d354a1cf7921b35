"""Ends a client that has stopped trying to make contact, whatever holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fleetspeak.client.comms.polling import POLL_TIMEOUT
from fleetspeak.client.comms.streaming import LIFE, START_TIMEOUT
from fleetspeak.config.client import ClientSettings
from fleetspeak.core import watchdog
from fleetspeak.program import dumps
from fleetspeak.program.ending import FAILED
from fleetspeak.program.lastacts import exit_now


def limit_for(settings: ClientSettings) -> float:
    """Seconds that a client with these settings may go without an attempt at contact."""
    times = settings.communicator
    delays = [
        float(seconds)
        for seconds in (times.max_poll_delay_seconds, times.max_buffer_delay_seconds, times.min_failure_delay_seconds)
    ]
    return watchdog.limit_for(delays, max(POLL_TIMEOUT, START_TIMEOUT + LIFE))


class Watchdog:
    """A thread of its own, so that a wedged reactor is noticed as well as a communicator that forgot to go on.

    When it expires, the stacks of all threads are written to a new file in the temporary folder, and the process
    ends with status 1: whoever watches over it, systemd for instance, starts it again.

    Time is that of `time.monotonic`, which stands still on Linux while the machine is suspended.
    """

    def __init__(
        self,
        limit: float,
        prefix: str,
        reactor: Any,
        *,
        grace: float = watchdog.GRACE,
        exit: Callable[[int], object] = exit_now,
    ) -> None:
        """@param prefix: what the name of the file begins with."""
        self.limit = limit
        self._grace = grace
        self._decision = watchdog.Watchdog(limit, time.monotonic(), grace)
        self._prefix = prefix
        self._reactor = reactor
        self._exit = exit
        self._doing = "has not begun to make contact"
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, settings: ClientSettings, reactor: Any) -> Watchdog:
        """The one for a client with these settings."""
        kind = "streaming" if settings.streaming else "polling"
        return cls(limit_for(settings), f"fleetspeak-{kind}-traces-", reactor)

    def start(self) -> None:
        """Begin to watch.  To be called in the process that is watched: threads do not survive a fork."""
        self._decision.reset(time.monotonic())
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def adjust(self, settings: ClientSettings) -> None:
        """The client has these settings from now on."""
        self.stop()
        self._stopped.clear()
        self.limit = limit_for(settings)
        self._decision = watchdog.Watchdog(self.limit, time.monotonic(), self._grace)
        self.start()

    def reset(self, doing: str) -> None:
        """The communicator does something.  Never blocks; any thread.

        @param doing: what, for the file.
        """
        self._doing = doing
        self._decision.reset(time.monotonic())

    def _watch(self) -> None:
        while wait := self._decision.check(time.monotonic()):
            # Waiting is done in pieces that no platform's timers refuse.
            if self._stopped.wait(min(wait, 3600.0)):
                return
        self._expired()

    def _expired(self) -> None:
        idle = self._decision.idle(time.monotonic())
        why = f"watchdog: no attempt at contact for {idle:.0f} s; last: {self._doing}"
        try:
            path = dumps.dump_temporary(self._prefix, f"{why}\n{dumps.stacks()}{dumps.pending_calls(self._reactor)}")
            why += f"; stack traces are in {path}"
        except Exception as error:  # whatever it is, the process is to end
            why += f"; stack traces could not be written: {error!r}"
        dumps.complain(f"fleetspeak-client: {why}; ending with status {FAILED}")
        self._exit(FAILED)
