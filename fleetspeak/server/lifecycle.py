"""Starting and stopping the parts of a server, in an order that is written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fleetspeak.errors import FleetspeakError
from fleetspeak.program.awaiting import failure_of, when_done

Action = Callable[[], Awaitable[None] | None]

log = Logger()


def _nothing() -> None:
    """For a part that needs no start, or no stop."""


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a server: how it is started, and how it is stopped.

    A start that fails leaves nothing behind that would have to be stopped.
    """

    name: str
    start: Action = _nothing
    stop: Action = _nothing


class SteppedService(Service):
    """A service whose parts are started one after the other, and stopped in the opposite order.

    If one cannot start, one line says why, those that were started are stopped again, and `give_up` is called,
    which is to end the process: there is no half-started server.
    """

    def __init__(
        self, steps: Sequence[Step], announce: Callable[[], None], give_up: Callable[[], None], reactor: Any
    ) -> None:
        """`announce` is called when all parts are started."""
        self._steps = steps
        self._announce = announce
        self._give_up = give_up
        self._reactor = reactor
        self._started: list[Step] = []
        self._starting: Deferred[None] | None = None
        self._at = ""

    def startService(self) -> None:  # noqa: N802
        """Start the parts as soon as the reactor runs."""
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> Deferred[None]:  # noqa: N802
        """Stop what was started, after the part that is just starting.  @return: fires when all is stopped."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._end())

    def _begin(self) -> None:
        if self.running:
            self._starting = Deferred.fromCoroutine(self._start_or_give_up())

    async def _start_or_give_up(self) -> None:
        try:
            await self._start()
        except Exception as error:
            if isinstance(error, FleetspeakError):
                log.critical("Unable to initialize Fleetspeak server: {error}", error=error)
            else:
                log.failure(
                    "Unable to initialize Fleetspeak server: the {part} cannot start: {kind}: {error}",
                    failure=failure_of(error),
                    part=self._at,
                    kind=type(error).__name__,
                    error=error,
                )
            await self._stop_parts()
            self._give_up()

    async def _start(self) -> None:
        for step in self._steps:
            self._at = step.name
            await _do(step.start)
            self._started.append(step)
            if not self.running:
                return
        self._announce()

    async def _end(self) -> None:
        if self._starting is not None:
            await when_done(self._starting)
        await self._stop_parts()

    async def _stop_parts(self) -> None:
        while self._started:
            step = self._started.pop()
            try:
                await _do(step.stop)
            except Exception:
                log.failure("the {part} did not stop cleanly", part=step.name)


async def _do(action: Action) -> None:
    outcome = action()
    if outcome is not None:
        await outcome
