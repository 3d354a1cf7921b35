"""A command that needs the reactor for as long as its work takes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react


def run_once(work: Callable[[Any], Coroutine[Any, Any, int]]) -> int:
    """Run the reactor until the work, which is given it, is done.

    @return: the exit status that the work gives; 1 if it was broken off, or failed, which is then logged.
    """
    status = 1

    async def run(reactor: Any) -> None:
        nonlocal status
        status = await work(reactor)

    try:
        react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
    except SystemExit as end:
        return status if end.code in (0, None) else 1
    return status
