"""Whether machines that are not known yet may become clients: a setting that all servers share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from twisted.logger import Logger

from fleetspeak.errors import StoreError
from fleetspeak.interfaces import IOperatorStore
from fleetspeak.server.periodic import Periodic

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
        self._failing = False
        self._looks = Periodic("look whether enrolment is open", self._refresh, lambda: interval, reactor)

    async def start(self) -> None:
        """Look, and go on looking.  Raises StoreError."""
        self.is_open = Mode.of(await self._store.settings()) is Mode.OPEN
        if not self.is_open:
            log.warn("enrolment is closed: clients that are not known are refused")
        self._looks.start()

    async def stop(self) -> None:
        """Look no more."""
        await self._looks.stop()

    def look_soon(self) -> None:
        """The setting has changed: look at once."""
        self._looks.soon()

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
