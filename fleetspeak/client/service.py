"""The client as a Twisted service: what happens in which order at start and at stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger

from fleetspeak.client.files import Files
from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.process.usage import UsageMonitor
from fleetspeak.client.reports import Reports
from fleetspeak.client.revocation import RevocationUpdates
from fleetspeak.client.router import Router
from fleetspeak.client.services.loader import ServiceFile
from fleetspeak.client.services.manager import ServiceManager
from fleetspeak.client.services.system import SystemService
from fleetspeak.client.state import StateKeeper
from fleetspeak.client.watchdog import Watchdog
from fleetspeak.errors import ConfigError
from fleetspeak.ids import show
from fleetspeak.interfaces import ICommunicator
from fleetspeak.program.awaiting import outcome_of
from fleetspeak.program.ending import FAILED, Ending
from fleetspeak.program.systemd import Notifier

END_LIMIT = 10.0
"""Seconds from the signal until the process has ended, cleanly or not; upstream's figure."""

STOP_LIMIT = 9.5
"""Seconds of them that the parts of the client have.  A daemon has 2 s, the last delivery 5 s."""


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
        files: Files,
        revocation: RevocationUpdates,
        load_services: Callable[[], Iterable[ServiceFile]],
        make_communicator: Callable[[], ICommunicator],
        make_monitor: Callable[[], UsageMonitor],
        warnings: Iterable[str],
        ending: Ending,
        clock: Any,
        watchdog: Watchdog | None = None,
        notifier: Notifier,
        describe: Callable[[], str],
    ) -> None:
        self._state = state
        self._outbox = outbox
        self._router = router
        self._reports = reports
        self._manager = manager
        self._system = system
        self._files = files
        self._revocation = revocation
        self._load_services = load_services
        self._make_communicator = make_communicator
        self._communicator: ICommunicator | None = None
        self._make_monitor = make_monitor
        self._monitor: UsageMonitor | None = None
        self._warnings = warnings
        self._ending = ending
        self._clock = clock
        self._watchdog = watchdog
        self._notifier = notifier
        self._describe = describe
        self._starting: Deferred[None] | None = None
        self._opened = False
        state.on_rekey(self._rekeyed)

    def startService(self) -> None:  # noqa: N802
        """Begin to start.  What makes it impossible is logged in one line, and ends the process with status 1."""
        super().startService()  # type: ignore[no-untyped-call]
        self._ending.begin()
        self._notifier.start(self._clock, self._describe)
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

    async def _start(self) -> None:
        for warning in self._warnings:
            self._log.warn("{warning}", warning=warning)
        # Everything that reads files here reads small ones, before there is anybody whom it could hold up.
        self._state.open()
        self._opened = True
        self._log.info("client {client_id} starting", client_id=show(self._state.identity.client_id))
        await self._manager.install(self._load_services())
        if not self.running:
            return
        self._state.start()
        self._system.announce()
        if self._watchdog is not None:
            self._watchdog.start()
        self._monitor = self._make_monitor()
        self._monitor.start()
        self._communicator = self._make_communicator()
        self._communicator.start()
        self._files.start(self._communicator)
        self._revocation.start()
        self._notifier.ready()
        self._log.info(
            "client {client_id} started with {count} services",
            client_id=show(self._state.identity.client_id),
            count=len(self._manager.names()),
        )

    async def _stop(self) -> None:
        self._router.close()
        if self._monitor is not None:
            self._monitor.stop()
        self._revocation.stop()
        try:
            await self._manager.stop()
            await self._files.stop()
            await self._system.finished()
            self._reports.flush()
            if self._communicator is not None:
                await outcome_of(self._communicator.stop())
        finally:  # whatever of that took too long
            self._outbox.close()
            if self._opened:
                await self._state.close()
        self._log.info("client stopped")

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
