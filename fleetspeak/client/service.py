"""The client as a Twisted service: what happens in which order at start and at stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger

from fleetspeak.client.files import Files
from fleetspeak.client.labels import Labels
from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.persistence.clones import CloneCheck
from fleetspeak.client.process.usage import UsageMonitor
from fleetspeak.client.reload import Reading, Reloader
from fleetspeak.client.reports import Reports
from fleetspeak.client.revocation import RevocationUpdates
from fleetspeak.client.router import Router
from fleetspeak.client.services.loader import Loaded
from fleetspeak.client.services.manager import ServiceManager
from fleetspeak.client.services.system import SystemService
from fleetspeak.client.state import InThread, StateKeeper
from fleetspeak.client.watchdog import Watchdog
from fleetspeak.config.client import ClientSettings
from fleetspeak.errors import ConfigError
from fleetspeak.ids import show
from fleetspeak.interfaces import ICommunicator
from fleetspeak.program.awaiting import outcome_of, within
from fleetspeak.program.ending import FAILED, Ending
from fleetspeak.program.systemd import Notifier

END_LIMIT = 10.0
"""Seconds from the signal until the process has ended, cleanly or not; upstream's figure."""

STOP_LIMIT = 9.5
"""Seconds of them that the parts of the client have.  A daemon has 2 s, the last delivery 5 s."""

SWITCH_LIMIT = 10.0
"""Seconds that a communicator may take to end when another one takes its place; the last delivery may take 5 s."""


REAP_LIMIT = 3.0
"""Seconds to look for processes that have outlived the client; a process in trouble may not let itself be looked at."""


class ClientService(Service):
    """One running client.

    Start: state (and with it the identity), services, ClientInfo, communicator; so the first contact lists every
    service.  Stop: no more of the server's messages, services, the acks, the communicator (which delivers what is
    held), state.
    """

    name = "fleetspeak-client"
    _log = Logger()

    def __init__(
        self,
        *,
        state: StateKeeper,
        outbox: ClientOutbox,
        router: Router,
        reports: Reports,
        manager: ServiceManager,
        system: SystemService,
        reap: Callable[[], Awaitable[None]],
        files: Files,
        revocation: RevocationUpdates,
        labels: Labels,
        clones: CloneCheck | None,
        settings: ClientSettings,
        load_services: Callable[[ClientSettings], Loaded],
        make_communicator: Callable[[ClientSettings], ICommunicator],
        make_monitor: Callable[[], UsageMonitor],
        ending: Ending,
        clock: Any,
        watchdog: Watchdog | None = None,
        notifier: Notifier,
        describe: Callable[[], str],
        read_settings: Callable[[], ClientSettings] | None = None,
        in_thread: InThread,
        take_hangup: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """
        @param read_settings: reads them anew for a reload; blocks; raises ConfigError.  None: they stay.
        @param take_hangup: is given what to call whenever somebody wants a reload.
        """
        self._state = state
        self._outbox = outbox
        self._router = router
        self._reports = reports
        self._manager = manager
        self._system = system
        self._reap = reap
        self._files = files
        self._revocation = revocation
        self._clones = clones
        self._settings = settings
        self._load_services = load_services
        self._make_communicator = make_communicator
        self._communicator: ICommunicator | None = None
        self._make_monitor = make_monitor
        self._monitor: UsageMonitor | None = None
        self._ending = ending
        self._clock = clock
        self._watchdog = watchdog
        self._notifier = notifier
        self._describe = describe
        self._starting: Deferred[None] | None = None
        self._opened = False
        self._started = False
        self._reload_when_started = False
        self._take_hangup = take_hangup
        self._reloader = Reloader(
            settings,
            partial(_read_all, read_settings, load_services),
            in_thread,
            manager,
            system,
            labels,
            self,
            notifier,
            clock,
        )
        state.on_rekey(self._rekeyed)

    def startService(self) -> None:  # noqa: N802
        """Begin to start.  What makes it impossible is logged in one line, and ends the process with status 1."""
        super().startService()  # type: ignore[no-untyped-call]
        self._ending.begin()
        self._notifier.start(self._clock, self._describe)
        if self._take_hangup is not None:
            self._take_hangup(self.reload)
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._not_started)

    def stopService(self) -> Deferred[None]:  # noqa: N802
        """Stop cleanly within `STOP_LIMIT`; what does not is left behind, and the exit status is 1."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._notifier.stopping()
        self._manager.close()
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._starting is not None:
            self._starting.cancel()
        stopping = Deferred.fromCoroutine(self._stop())
        stopping.addTimeout(STOP_LIMIT, self._clock)
        stopping.addErrback(self._not_stopped)
        return stopping.addCallback(lambda _: self._notifier.stop())

    def reload(self) -> None:
        """Read the configuration anew and change what has changed; see `Reloader`."""
        if self._started:
            self._reloader.request()
        else:
            self._reload_when_started = True

    # ---- for the reloader

    def prepare(self, settings: ClientSettings) -> ICommunicator:
        """See `fleetspeak.client.reload.Connection`."""
        return self._make_communicator(settings)

    async def switch(self, communicator: ICommunicator, settings: ClientSettings) -> None:
        """See `fleetspeak.client.reload.Connection`."""
        if self._communicator is not None:
            try:
                await within(SWITCH_LIMIT, self._communicator.stop(), self._clock)
            except Exception as error:
                self._log.error("the old communicator did not stop cleanly: {error!r}", error=error)
        # Also when the client is stopping meanwhile, which then stops this one: it delivers what came since.
        self._communicator = communicator
        communicator.start()
        self._files.start(communicator)
        if self.running and self._watchdog is not None:
            self._watchdog.adjust(settings)

    # ----

    async def _start(self) -> None:
        for warning in self._settings.warnings:
            self._log.warn("{warning}", warning=warning)
        # Everything that reads files here reads small ones, before there is anybody whom it could hold up.
        self._state.open()
        self._opened = True
        if self._clones is not None:
            self._clones.check(self._state.identity)
        self._outbox.open()
        self._log.info("client {client_id} starting", client_id=show(self._state.identity.client_id))
        await self._end_orphans()
        await self._manager.install(self._load_services(self._settings).files)
        if not self.running:
            return
        self._state.start()
        self._system.announce()
        if self._watchdog is not None:
            self._watchdog.start()
        self._monitor = self._make_monitor()
        self._monitor.start()
        self._communicator = self._make_communicator(self._settings)
        self._communicator.start()
        self._files.start(self._communicator)
        self._revocation.start()
        self._notifier.ready()
        self._log.info(
            "client {client_id} started with {count} services",
            client_id=show(self._state.identity.client_id),
            count=len(self._manager.names()),
        )
        self._started = True
        if self._reload_when_started:
            self.reload()

    async def _stop(self) -> None:
        self._router.close()
        if self._monitor is not None:
            self._monitor.stop()
        self._revocation.stop()
        try:
            await self._manager.stop()
            if self._opened:
                await self._end_orphans()
            await self._files.stop()
            await self._reloader.finished()
            await self._system.finished()
            self._reports.flush()
            if self._communicator is not None:
                self._outbox.drain()
                await outcome_of(self._communicator.stop())
        finally:  # whatever of that took too long
            try:
                await self._outbox.close()
            finally:  # the lock last: as long as we have it, nobody else opens the spool
                if self._opened:
                    await self._state.close()
        self._log.info("client stopped")

    async def _end_orphans(self) -> None:
        """End the processes of this client that have outlived it, or have left the groups of its children."""
        try:
            await within(REAP_LIMIT, self._reap(), self._clock)
        except CancelledError:
            raise
        except Exception:
            self._log.failure("cannot look for processes that have outlived this client")

    def _rekeyed(self, _: object) -> None:
        if self._communicator is not None:
            self._communicator.reset()

    def _not_started(self, failure: Any) -> None:
        if not self.running and failure.check(CancelledError):
            return
        if failure.check(ConfigError):
            self._log.critical("Stopped due to unrecoverable error: {error}", error=failure.value)
        else:
            self._log.failure("Stopped due to unrecoverable error", failure)
        self._ending.end(FAILED)

    def _not_stopped(self, failure: Any) -> None:
        if failure.check(TimeoutError):
            self._log.error("did not stop within {limit} s; ending without", limit=STOP_LIMIT)
            self._ending.stuck(f"the client did not stop within {STOP_LIMIT} s")
        else:
            self._log.failure("did not stop cleanly", failure)
        self._ending.end(FAILED)


def _read_all(
    read_settings: Callable[[], ClientSettings] | None,
    load_services: Callable[[ClientSettings], Loaded],
    current: ClientSettings,
) -> Reading:
    """Blocks.  Raises ConfigError."""
    settings = current if read_settings is None else read_settings()
    return Reading(settings, load_services(settings))
