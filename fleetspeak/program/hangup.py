"""SIGHUP, by which an operator asks a program to read its configuration anew."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


def on_hangup(reactor: Any, call: Callable[[], None]) -> None:
    """From now on call this in the reactor, each time the signal comes."""

    def handle(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(call)

    signal.signal(signal.SIGHUP, handle)
