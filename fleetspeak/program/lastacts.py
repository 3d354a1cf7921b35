"""What is done at the very end of a process, also when that ends without stopping anything."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable

_acts: list[Callable[[], object]] = []


def at_the_end(act: Callable[[], object]) -> None:
    """Call `act` when the process ends by `exit_now` or in any ordinary way; once, however often it is asked for.

    It is called in any thread, must be quick, and must not count on anything that runs in the reactor.
    """
    if act not in _acts:
        _acts.append(act)


def exit_now(status: int) -> None:
    """End the process with this status and without cleaning up, but for the last acts."""
    _act()
    os._exit(status)


def _act() -> None:
    while _acts:
        with contextlib.suppress(Exception):  # nothing keeps the process from ending
            _acts.pop()()


atexit.register(_act)
