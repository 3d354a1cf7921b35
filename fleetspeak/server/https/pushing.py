"""When a stream looks for messages: as soon as there may be some, and never twice at a time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from fleetspeak.pb import common
from fleetspeak.server.contact.outgoing import may_be_more

LOOK_LIMIT = 30.0
"""Seconds for one look."""

_FIRST_DELAY = 0.1
_GROWTH = 1.5
_MAX_DELAY = 30.0
_MAX_EXPONENT = 20


def delay_after(errors: int, u: float) -> float:
    """Seconds to wait after `errors` failed looks in a row; `u` is uniform from 0 to 1."""
    return min(_MAX_DELAY, (_FIRST_DELAY + _FIRST_DELAY * u) * _GROWTH ** min(errors, _MAX_EXPONENT))


class Pusher:
    """Decides when to look, and hands on what is found.

    Whatever wakes it while it looks, or while the peer reads more slowly than we write, makes for one more look
    afterwards: nothing is waited for otherwise.
    """

    __slots__ = (
        "_clock",
        "_errors",
        "_failed",
        "_held",
        "_look",
        "_looking",
        "_open",
        "_ready",
        "_send",
        "_timer",
        "_uniform",
        "_wanted",
        "_work",
    )

    def __init__(
        self,
        look: Callable[[], Coroutine[Deferred[Any], Any, Sequence[common.Message]]],
        send: Callable[[Sequence[common.Message]], None],
        failed: Callable[[Exception], None],
        ready: Callable[[], None],
        clock: IReactorTime,
        uniform: Callable[[], float],
    ) -> None:
        """`failed` is told of each look that fails; `ready` is called when a look ends after `stop`."""
        self._look = look
        self._send = send
        self._failed = failed
        self._ready = ready
        self._clock = clock
        self._uniform = uniform
        self._errors = 0
        self._open = self._wanted = self._held = self._looking = False
        self._timer: IDelayedCall | None = None
        self._work: Deferred[None] | None = None

    @property
    def is_looking(self) -> bool:
        """A look is under way, whose messages will be sent."""
        return self._looking

    def start(self) -> None:
        """From now on look whenever there may be something."""
        self._open = True
        self._go()

    def wake(self) -> None:
        """There may be messages."""
        self._wanted = True
        self._go()

    def hold(self) -> None:
        """Look no more until `release`."""
        self._held = True

    def release(self) -> None:
        """Look again."""
        self._held = False
        self._go()

    def stop(self) -> None:
        """Begin no more looks."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cancel(self) -> None:
        """Stop, and give up the look that is under way."""
        self.stop()
        if self._work is not None:
            self._work.cancel()

    def _go(self) -> None:
        if self._may_look() and not self._looking:
            self._looking = True
            work = Deferred.fromCoroutine(self._run())
            self._work = None if work.called else work

    def _may_look(self) -> bool:
        return self._open and self._wanted and not self._held and self._timer is None

    async def _run(self) -> None:
        try:
            while self._may_look():
                self._wanted = False
                await self._look_once()
        finally:
            self._looking = False
            if not self._open:
                self._ready()

    async def _look_once(self) -> None:
        try:
            messages = await Deferred.fromCoroutine(self._look()).addTimeout(LOOK_LIMIT, self._clock)
        except CancelledError:
            return
        except Exception as error:
            self._failed(error)
            self._back_off()
            return
        self._errors = 0
        if may_be_more(messages):
            self._wanted = True
        if messages:
            self._send(messages)

    def _back_off(self) -> None:
        self._errors += 1
        self._wanted = True
        if self._open:
            self._timer = self._clock.callLater(delay_after(self._errors, self._uniform()), self._again)

    def _again(self) -> None:
        self._timer = None
        self._go()
