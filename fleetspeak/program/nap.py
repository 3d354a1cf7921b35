"""A pause that others may end."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred


class Nap:
    """Of one sleeper, who sleeps again and again.  All in the reactor's thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._sleep: Deferred[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or when `wake` is called."""
        self._sleep = Deferred()
        timer = self._reactor.callLater(seconds, self.wake)
        try:
            await self._sleep
        finally:
            if timer.active():
                timer.cancel()

    def wake(self) -> None:
        """End the pause, if there is one."""
        if self._sleep is not None:
            sleep, self._sleep = self._sleep, None
            sleep.callback(None)
