"""Ctrl-C and its like: each ends the demo once, and never in the middle of what must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Turns the first of these signals into a KeyboardInterrupt of the main thread; the others do nothing."""

    def __init__(self) -> None:
        self._held = False
        self._came = False

    def install(self) -> None:
        """Take the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes meanwhile interrupts at the end of this."""
        if self._held:
            yield
            return
        self._held = True
        yield
        self._held = False
        if self._came:
            self._handle()

    def hold(self) -> None:
        """No signal interrupts any more: the end has come already."""
        self._held = True

    def _handle(self, number: int = 0, frame: FrameType | None = None) -> None:
        if self._held:
            self._came = True
        else:
            self._held = True
            raise KeyboardInterrupt
