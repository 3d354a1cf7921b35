"""Sees to it that a process that is to end does end, whatever holds up its reactor."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable


class Deadline:
    """A thread that waits for the word, then for a while, and then calls `expired`.

    The word is a byte in a pipe, because it may come from a signal handler: nothing that such a handler has interrupted
    can hold a lock that is needed for that.
    """

    def __init__(self, seconds: float, expired: Callable[[], None]) -> None:
        """@param expired: called in the thread, unless the process has ended before."""
        self._seconds = seconds
        self._expired = expired
        self._word: int | None = None

    def start(self) -> None:
        """Make the thread; to be called in the process that is to end, for threads do not survive a fork."""
        if self._word is None:
            hears, self._word = os.pipe()
            os.set_blocking(self._word, False)
            threading.Thread(target=self._wait, args=(hears,), daemon=True, name="deadline").start()

    def run(self) -> None:
        """Time runs from now on; only the first call counts, and none before `start` does.  Any thread, any signal."""
        if self._word is not None:
            with contextlib.suppress(BlockingIOError):  # it was told often enough
                os.write(self._word, b"x")

    def _wait(self, hears: int) -> None:
        os.read(hears, 1)
        time.sleep(self._seconds)
        self._expired()
