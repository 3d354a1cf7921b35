"""Who carries out what waits in a queue: a thread, or a test.

A worker owns a database: it opens it, carries out batches on it, and closes it, all in one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads

from fleetspeak.errors import StoreError
from fleetspeak.store.sql.groupcommit import Call, Outcome, Queue, Transactional, carry_out

SWITCH_INTERVAL = 0.0002
"""What a process with a busy reactor and `ThreadWorker`s gives to `sys.setswitchinterval`, in seconds.

A thread that wants the interpreter asks for it when it has waited so long without any change.  A reactor that makes
system calls more often than that lets go each time, takes it back before anyone else wakes up, and starves all other
threads: single statements were measured to take hundreds of milliseconds beside a thread with a system call every
0.3 ms, at the default of 5 ms as well as at 1 ms.  So it has to be shorter than the time between system calls.
"""


SEARCH_TIME = 20.0
"""Seconds after which a database gives up a statement with which an operator looks for something."""


class Database(Transactional, Protocol):
    """What a worker needs of a database."""

    def open(self) -> None:
        """Raises ConfigError: it cannot be used."""

    def close(self) -> None:
        """Never raises."""


Observer = Callable[[str, int, int, float], None]
"""Hears of a batch: the worker's name, calls, requests, and seconds."""


class Worker(Protocol):
    """Carries out calls, one batch after the other.  Its methods are called in the reactor's thread."""

    @property
    def name(self) -> str:
        """For people."""

    def open(self) -> Deferred[None]:
        """Open the database.  Fails with ConfigError."""

    def submit(self, call: Call) -> None:
        """Let `call` wait for its batch.  Raises StoreError if that cannot be."""

    def take_back(self, call: Call) -> None:
        """The caller has given up: if `call` has not begun, it never will."""

    def waiting(self) -> tuple[int, int]:
        """How many calls wait, and of how many bytes."""

    def observe(self, observer: Observer) -> None:
        """Tell `observer`, in the reactor's thread, of each batch."""

    def close(self) -> Deferred[None]:
        """Carry out what waits, then close the database.  Never fails."""


MakeWorker = Callable[[str, Database], Worker]
"""Makes the worker of this name for a database."""


class ThreadWorker:
    """A worker that is a thread.

    While one batch is being written the next one gathers; there is no timer.  All outcomes of a batch come back to
    the reactor in one call.
    """

    def __init__(self, name: str, database: Database, reactor: IReactorFromThreads) -> None:
        self._database = database
        self._reactor = reactor
        self._queue = Queue()
        self._changed = threading.Condition()
        self._accepting = False
        self._closing = False
        self._closed: Deferred[None] = Deferred()
        self._observer: Observer | None = None
        self.name = name
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._opened: Deferred[None] = Deferred()

    def open(self) -> Deferred[None]:
        """Start the thread, which opens the database; once only."""
        if self._closing:
            return fail(StoreError("the store was closed"))
        self._accepting = True
        self._thread.start()
        return self._opened

    def submit(self, call: Call) -> None:
        """Let `call` wait."""
        with self._changed:
            if not self._accepting:
                raise StoreError("the store is not open")
            self._queue.add(call)
            self._changed.notify()

    def take_back(self, call: Call) -> None:
        """Take `call` out, if it still waits."""
        with self._changed:
            self._queue.remove(call)

    def waiting(self) -> tuple[int, int]:
        """How many calls wait, and of how many bytes."""
        with self._changed:
            return len(self._queue), self._queue.bytes

    def observe(self, observer: Observer) -> None:
        """See `Worker`."""
        self._observer = observer

    def close(self) -> Deferred[None]:
        """Let the thread finish."""
        with self._changed:
            started, self._accepting = self._thread.ident is not None, False
            self._closing = True
            self._changed.notify()
        return self._closed if started else succeed(None)

    # -- in the thread

    def _run(self) -> None:
        try:
            self._database.open()
        except Exception as error:
            self._reactor.callFromThread(self._not_opened, error)
            return
        self._reactor.callFromThread(self._opened.callback, None)
        while calls := self._next():
            began = time.monotonic()
            outcomes = carry_out(self._database, calls)
            self._reactor.callFromThread(self._hand_back, calls, outcomes, time.monotonic() - began)
            del calls, outcomes
        self._database.close()
        self._reactor.callFromThread(self._closed.callback, None)

    def _next(self) -> list[Call]:
        """The next batch, when there is one; none if there will be no other."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            return self._queue.take()

    # -- in the reactor

    def _hand_back(self, calls: list[Call], outcomes: list[list[Outcome]], seconds: float) -> None:
        if self._observer is not None:
            self._observer(self.name, len(calls), sum(len(call.items) for call in calls), seconds)
        _hand_back(calls, outcomes)

    def _not_opened(self, error: Exception) -> None:
        with self._changed:
            self._accepting = False
            left = self._queue.take_all()
        _hand_back(left, [[StoreError("the store could not be opened") for _ in call.items] for call in left])
        self._closed.callback(None)
        self._opened.errback(error)


class MemoryWorker:
    """A worker that does what it is told when it is told, in the thread of the caller; for tests."""

    def __init__(self, name: str, database: Database) -> None:
        self.name = name
        self._database = database
        self._queue = Queue()
        self._open = False

    def open(self) -> Deferred[None]:
        """Open the database, at once."""
        try:
            self._database.open()
        except Exception:
            return fail()
        self._open = True
        return succeed(None)

    def submit(self, call: Call) -> None:
        """Let `call` wait until `perform`."""
        if not self._open:
            raise StoreError("the store is not open")
        self._queue.add(call)

    def take_back(self, call: Call) -> None:
        """Take `call` out, if it still waits."""
        self._queue.remove(call)

    def waiting(self) -> tuple[int, int]:
        """How many calls wait, and of how many bytes."""
        return len(self._queue), self._queue.bytes

    def observe(self, observer: Observer) -> None:
        """Here nothing takes any time."""

    def perform(self) -> bool:
        """Carry out the next batch.  False: there was none."""
        calls = self._queue.take()
        if calls:
            _hand_back(calls, carry_out(self._database, calls))
        return bool(calls)

    def close(self) -> Deferred[None]:
        """Carry out what waits, and close the database, at once."""
        self._open = False
        while self.perform():
            continue
        self._database.close()
        return succeed(None)


def _hand_back(calls: list[Call], outcomes: list[list[Outcome]]) -> None:
    for call, of_call in zip(calls, outcomes, strict=True):
        call.fire(of_call)
