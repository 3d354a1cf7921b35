"""The one thread that touches the spool's disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_T = TypeVar("_T")


class Disk(Protocol):
    """Where the blocking calls are made, one after the other."""

    def start(self, write: Callable[[Sequence[Any]], Callable[[], None]]) -> None:
        """Begin.

        @param write: blocks, and is given all that `append` has gathered; what it returns is called in the reactor.
        """

    def append(self, item: Any) -> None:
        """Have it written together with whatever else comes until the disk is free."""

    def call(self, job: Callable[[], _T]) -> Deferred[_T]:
        """Make a blocking call, after the writes that wait and the calls before it."""

    def tell(self, job: Callable[[], None], failed: Callable[[Failure], None]) -> None:
        """The same without an answer, unless it fails."""

    def stop(self) -> Deferred[None]:
        """Fires when all is done.  Nothing more may be asked for."""


class SpoolThread:
    """`Disk` in a thread of its own.  Has no timer: whatever comes while it writes is the next thing that it writes."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._changed = threading.Condition()
        self._items: list[Any] = []
        self._jobs: deque[Callable[[], Callable[[], None] | None]] = deque()
        """Each blocks, and returns what is to be called in the reactor."""
        self._write: Callable[[Sequence[Any]], Callable[[], None]] | None = None
        self._stopped: Deferred[None] | None = None
        # A disk that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="fleetspeak spool", daemon=True)

    def start(self, write: Callable[[Sequence[Any]], Callable[[], None]]) -> None:
        """See `Disk`."""
        self._write = write
        self._thread.start()

    def append(self, item: Any) -> None:
        """See `Disk`."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def call(self, job: Callable[[], _T]) -> Deferred[_T]:
        """See `Disk`."""
        done: Deferred[_T] = Deferred()
        self._do(lambda: _settler(job, done))
        return done

    def tell(self, job: Callable[[], None], failed: Callable[[Failure], None]) -> None:
        """See `Disk`."""
        self._do(lambda: _failure_of(job, failed))

    def _do(self, job: Callable[[], Callable[[], None] | None]) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def stop(self) -> Deferred[None]:
        """See `Disk`."""
        stopped: Deferred[None] = Deferred()
        with self._changed:
            self._stopped = stopped
            self._changed.notify()
        # It is about to return; no thread of ours shall be there when the interpreter ends.
        return stopped.addCallback(lambda _: self._thread.join())

    def _run(self) -> None:
        assert self._write is not None
        while True:
            with self._changed:
                while not (self._items or self._jobs or self._stopped):
                    self._changed.wait()
                items, self._items = self._items, []
                job = self._jobs.popleft() if self._jobs else None
                stopped = None if items or job else self._stopped
            if items:
                self._reactor.callFromThread(self._write(items))
            if job is not None and (result := job()) is not None:
                self._reactor.callFromThread(result)
            if stopped is not None:
                self._reactor.callFromThread(stopped.callback, None)
                return


def _settler(job: Callable[[], _T], done: Deferred[_T]) -> Callable[[], None]:
    """Do it, and return what tells of it."""
    try:
        result = job()
    except Exception as error:
        failure = Failure(error)  # type: ignore[no-untyped-call]
        return lambda: done.errback(failure)
    return lambda: done.callback(result)


def _failure_of(job: Callable[[], None], failed: Callable[[Failure], None]) -> Callable[[], None] | None:
    """Do it, and return what tells that it failed."""
    try:
        job()
    except Exception as error:
        failure = Failure(error)  # type: ignore[no-untyped-call]
        return lambda: failed(failure)
    return None
