"""A double for the thread of the spool, for tests on a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute, succeed
from twisted.python.failure import Failure

_T = TypeVar("_T")


class SameThread:
    """`fleetspeak.client.spool.thread.Disk`: every call is made at once, by whoever asks."""

    def __init__(self) -> None:
        self._write: Callable[[Sequence[Any]], Callable[[], None]] | None = None
        self._items: list[Any] = []
        self._releasing = False
        self.held = False
        """Gather, and write when `release` is called."""

    def start(self, write: Callable[[Sequence[Any]], Callable[[], None]]) -> None:
        """See `Disk`."""
        self._write = write

    def append(self, item: Any) -> None:
        """See `Disk`."""
        self._items.append(item)
        if not self.held:
            self.release()

    def release(self) -> None:
        """Write what was gathered."""
        assert self._write is not None
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._items:
                items, self._items = self._items, []
                self._write(items)()
        finally:
            self._releasing = False

    def call(self, job: Callable[[], _T]) -> Deferred[_T]:
        """See `Disk`."""
        self.release()
        return execute(job)

    def tell(self, job: Callable[[], None], failed: Callable[[Failure], None]) -> None:
        """See `Disk`."""
        self.call(job).addErrback(failed)

    def stop(self) -> Deferred[None]:
        """See `Disk`."""
        self.release()
        return succeed(None)
