"""Whether machines that are not known yet may become clients: a setting that all servers share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IOperatorStore
from fleetspeak.program.awaiting import when_done

SETTING = "enrolment"
"""The name of the setting."""

LOOK = 2.0
"""Seconds between two looks at the setting: so late a server sees what was set by way of another one."""

log = Logger()


class Mode(Enum):
    """The numbers are those of ``fleetspeak.operator.Enrolment.Mode``."""

    OPEN = 0
    CLOSED = 1

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Mode:
        """What is set: OPEN if nothing ever was, and CLOSED if it is a mode that only newer servers know."""
        name = settings.get(SETTING, cls.OPEN.name)
        return cls.OPEN if name == cls.OPEN.name else cls.CLOSED


class Enrolment:
    """Knows the mode, by looking now and then.  All in the reactor's thread."""

    def __init__(self, store: IOperatorStore, reactor: Any, interval: float = LOOK) -> None:
        """@param interval: seconds between two looks."""
        self.is_open = False
        """Whether a client that is not known may be let in."""
        self._store = store
        self._reactor = reactor
        self._interval = interval
        self._timer: IDelayedCall | None = None
        self._look: Deferred[None] | None = None
        self._again = self._going = self._failing = False

    async def start(self) -> None:
        """Look, and go on looking.  Raises StoreError."""
        self.is_open = Mode.of(await self._store.settings()) is Mode.OPEN
        if not self.is_open:
            log.warn("enrolment is closed: clients that are not known are refused")
        self._going = True
        self._set_timer()

    async def stop(self) -> None:
        """Look no more."""
        self._going = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        look = self._look
        if look is not None:
            look.cancel()
            await when_done(look)

    def look_soon(self) -> None:
        """The setting has changed: look at once."""
        self._again = self._look is not None
        if self._timer is not None:
            self._timer.cancel()
            self._begin()

    def _set_timer(self) -> None:
        self._timer = self._reactor.callLater(self._interval, self._begin)

    def _begin(self) -> None:
        self._timer = None
        look = self._look = Deferred.fromCoroutine(self._refresh())
        look.addErrback(lambda failure: log.failure("cannot look whether enrolment is open", failure=failure))
        look.addBoth(self._done)

    def _done(self, _: object) -> None:
        self._look = None
        if not self._going:
            return
        if self._again:
            self._again = False
            self._begin()
        else:
            self._set_timer()

    async def _refresh(self) -> None:
        try:
            is_open = Mode.of(await self._store.settings()) is Mode.OPEN
        except StoreError as error:
            if not self._failing:
                log.error("cannot look whether enrolment is open, so nothing changes: {error}", error=error)
            self._failing = True
            return
        self._failing = False
        if is_open != self.is_open:
            self.is_open = is_open
            log.warn("enrolment is {mode} now", mode="open" if is_open else "closed")
