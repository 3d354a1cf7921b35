"""Reads the configuration of a running client anew, and changes what has changed, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fleetspeak.client.labels import Labels
from fleetspeak.client.services.loader import Loaded
from fleetspeak.client.services.manager import ServiceManager
from fleetspeak.client.services.system import SystemService
from fleetspeak.client.state import InThread
from fleetspeak.config.client import NOT_THE_CONNECTIONS, RESTART_NEEDED, ClientSettings
from fleetspeak.core.reload import SettingsPlan, plan_settings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import ICommunicator
from fleetspeak.program.systemd import Notifier

READ_LIMIT = 60.0
"""Seconds to read the files; upstream's figure for a whole reload.  A network's file system may never answer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the files say."""

    settings: ClientSettings
    services: Loaded


class Connection(Protocol):
    """Who has the communicator."""

    def prepare(self, settings: ClientSettings) -> ICommunicator:
        """One with these settings, not started.  Raises ConfigError."""

    async def switch(self, communicator: ICommunicator, settings: ClientSettings) -> None:
        """Stop the one there is, which delivers what it holds, and start this one."""


class Reloader:
    """One reload after the other; what is asked for during one is done after it.

    A configuration that cannot be used changes nothing: the client goes on with the one it has.  A file of a service
    that cannot be used leaves that service as it is.
    """

    _log = Logger()

    def __init__(
        self,
        settings: ClientSettings,
        read: Callable[[ClientSettings], Reading],
        in_thread: InThread,
        manager: ServiceManager,
        system: SystemService,
        labels: Labels,
        connection: Connection,
        notifier: Notifier,
        clock: IReactorTime,
    ) -> None:
        """@param read: reads everything, given the settings that are in force; raises ConfigError; blocks."""
        self._settings = settings
        self._read = read
        self._in_thread = in_thread
        self._manager = manager
        self._system = system
        self._labels = labels
        self._connection = connection
        self._notifier = notifier
        self._clock = clock
        self._reading: Deferred[Reading] | None = None
        self._running: Deferred[None] | None = None
        self._again = False
        self._closed = False

    def request(self) -> None:
        """Reload now, or once more after the reload that is going on."""
        if self._closed:
            return
        if self._running is not None:
            self._again = True
            return
        running = Deferred.fromCoroutine(self._run())
        if not running.called:
            self._running = running

    async def finished(self) -> None:
        """Begin no more, read no more, and wait for what is being changed."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        while True:
            self._again = False
            self._notifier.reloading()
            try:
                await self._reload()
            except ConfigError as error:
                self._log.error(
                    "the new configuration cannot be used, the client goes on with the one it has: {error}", error=error
                )
            except TimeoutError:
                self._log.error(
                    "the configuration could not be read within {limit:.0f} s, the client goes on with the one it has",
                    limit=READ_LIMIT,
                )
            except Exception:
                if self._closed:
                    return
                self._log.failure("the reload failed")
            if self._closed:
                return
            self._notifier.ready()
            if not self._again:
                self._running = None
                return

    async def _reload(self) -> None:
        self._log.info("reading the configuration anew")
        self._reading = self._in_thread(self._read, self._settings).addTimeout(READ_LIMIT, self._clock)
        try:
            reading = await self._reading
        finally:
            self._reading = None
        old, new = self._settings, reading.settings
        for warning in new.warnings:
            self._log.warn("{warning}", warning=warning)
        plan = _compare(old, new)
        new = self._without(plan, old, new)
        communicator = self._connection.prepare(new) if plan.connection else None
        before = self._manager.installed(), self._labels.all
        self._settings = new
        self._labels.configure(new.labels)
        await self._manager.update(reading.services)
        if communicator is not None:
            self._log.info("connecting anew, as changed: {names}", names=", ".join(plan.connection))
            await self._connection.switch(communicator, new)
        if (self._manager.installed(), self._labels.all) != before:
            self._system.announce()
        self._log.info("the configuration was read anew")

    def _without(self, plan: SettingsPlan, old: ClientSettings, new: ClientSettings) -> ClientSettings:
        """The new settings, but the old ones where a running client cannot change."""
        for name in plan.restart:
            self._log.error("{name} has changed: restart the client, until then the old one is used", name=name)
        return replace(new, **{name: getattr(old, name) for name in plan.restart})


def _compare(old: ClientSettings, new: ClientSettings) -> SettingsPlan:
    def named(settings: ClientSettings) -> dict[str, object]:
        return {field.name: getattr(settings, field.name) for field in fields(settings)}

    return plan_settings(named(old), named(new), elsewhere=NOT_THE_CONNECTIONS, restart=RESTART_NEEDED)
