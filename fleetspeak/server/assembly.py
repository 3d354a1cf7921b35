"""Puts a server together from its parts.  The one place that knows every implementation."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from fleetspeak.config.addresses import show
from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import (
    IFileStore,
    IOperatorStore,
    IServerServiceContext,
    IServerServiceFactory,
    IServerStats,
    IStore,
)
from fleetspeak.pb import admin, operator
from fleetspeak.program.ending import FAILED, ProcessEnd
from fleetspeak.program.systemd import Notifier
from fleetspeak.server.admin.filestorage import FileStorage
from fleetspeak.server.admin.operations import AdminOperations
from fleetspeak.server.admin.operator.all import make_operations
from fleetspeak.server.admin.operator.audit import AuditOperations
from fleetspeak.server.admin.served import Served
from fleetspeak.server.admin.server import AdminServer
from fleetspeak.server.admin.trail import Trail
from fleetspeak.server.allocations import AllocationSweep
from fleetspeak.server.broadcasts import BroadcastManager
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.choices import database_lock, make_authorizer, make_store
from fleetspeak.server.contact.handler import ContactHandler
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.enrolment import Enrolment
from fleetspeak.server.files import Files, StoredFiles
from fleetspeak.server.health import Readiness, health_endpoint
from fleetspeak.server.https.frontend import HttpsFrontend
from fleetspeak.server.inserts import Inserter
from fleetspeak.server.lifecycle import Step, SteppedService
from fleetspeak.server.notify.pair import Notifications, checked_pair, pair_for
from fleetspeak.server.notify.sweep import StreamSweep
from fleetspeak.server.probes import ProbeEndpoint
from fleetspeak.server.retention import Retention
from fleetspeak.server.services.backlog import Backlog
from fleetspeak.server.services.manager import SYSTEM, ServiceContext, ServiceManager
from fleetspeak.server.services.system import SystemService
from fleetspeak.server.standing import Standing
from fleetspeak.server.stats import ServerStats
from fleetspeak.server.stats.collector import MetricsCollector
from fleetspeak.server.stats.gauges import watch_server
from fleetspeak.server.stats.store import MeasuredStore
from fleetspeak.store.sql.store import SqlStore

log = Logger()


class Server:
    """The parts of one server, connected, none of them started."""

    def __init__(
        self,
        settings: ServerSettings,
        factories: Iterable[IServerServiceFactory],
        reactor: Any,
        *,
        store: IStore | None = None,
        file_stores: Mapping[str, IFileStore] | None = None,
        collectors: Sequence[IServerStats] = (),
        notifications: Notifications | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """
        @param factories: of the services that `settings` names.
        @param store: used in place of the database that `settings` names.
        @param file_stores: of the services, by name, whose files are not in the store.
        @param collectors: who hears of what the server does.
        @param notifications: how servers notify each other, in place of what `settings` say.
        @raise ConfigError: `settings` cannot work.
        """
        self.settings = settings
        self.reactor = reactor
        self._now_ns = now_ns
        self.collector = MetricsCollector(one.name for one in settings.services) if settings.stats_address else None
        self.stats = ServerStats([*collectors, *([self.collector] if self.collector else ())], reactor)
        self.lock = None if store else database_lock(settings)
        self.store = self._measured(store or make_store(settings, reactor, now_ns, uniform))
        self._file_stores = dict(file_stores or {})
        self.files = Files(StoredFiles(self.store), self._file_stores)
        self.dispatcher = Dispatcher(self.stats)
        self.cache = ClientCache(self.store.client_data, reactor.seconds)
        # One for the admin API alone, without services, must not fail what is for services of the other servers.
        self._processes = settings.https_address is not None or bool(settings.services)
        self.manager = ServiceManager(reactor, now_ns, self.stats, refuse_unknown=self._processes)
        self.backlog = Backlog(
            self.store,
            self.manager,
            reactor,
            now_ns,
            uniform,
            limits=settings.retry_limits,
            stats=self.stats,
        )
        pair = notifications or pair_for(settings, self.dispatcher, reactor, self.stats)
        self.notifier, self.listener = checked_pair(*pair)
        self.inserter = Inserter(
            self.store,
            self.cache.lookup,
            self.dispatcher.dispatch,
            self.notifier,
            self.manager,
            self.backlog,
            now_ns,
            self.stats,
        )
        self.broadcasts = BroadcastManager(
            self.store,
            self.dispatcher,
            reactor,
            now_ns,
            poll_time=settings.broadcast_poll_time,
            rate=settings.broadcast_rate,
            uniform=uniform,
            stats=self.stats,
        )
        self.allocations = AllocationSweep(self.store, reactor, now_ns, settings.broadcast_poll_time)
        self.trail = Trail(self.store, reactor)
        operators = IOperatorStore(self.store, None)
        self.enrolment = None if operators is None else Enrolment(operators, reactor)
        self.standing = Standing(self.store, self.dispatcher, self.cache, reactor)
        self.sweep = StreamSweep(self.store, self.dispatcher, reactor, uniform=uniform)
        self.retention = Retention(self.store, settings.keep, reactor, now_ns, self.stats, uniform)
        self._install_services(factories, now_ns)
        self.frontend = self._frontend(now_ns)
        self.admin = self._admin()
        self.readiness = Readiness(self.store, reactor)
        self.health = self._health()
        self.metrics = self._metrics()

    def steps(self) -> list[Step]:
        """The order of starting; stopping goes the other way.

        Clients are let in when everything else is ready, and are the first to be sent away; the store is there for
        all the others as long as any of them is.
        """
        steps = []
        if self.metrics is not None:
            steps.append(Step("metrics endpoint", self.metrics.start, self.metrics.stop))
        if self.lock is not None:
            steps.append(Step("lock of the database", self.lock.acquire, self.lock.release))
        steps += [
            Step("store", self.store.open, self.store.close),
            Step("notifier", stop=self.notifier.stop),
            Step("listener", self._listen, self.listener.stop),
            Step("services", self.manager.start, self.manager.stop),
            Step("backlog", self._start_backlog, self._finish_processing),
        ]
        if self.settings.keep:
            steps.append(Step("retention", self.retention.start, self.retention.stop))
        if self.frontend is not None:  # without clients no shares are taken
            steps.append(Step("broadcasts", self.broadcasts.start, self.broadcasts.stop))
            if self.enrolment is not None:
                steps.append(Step("enrolment", self.enrolment.start, self.enrolment.stop))
            steps.append(Step("sweep", self.sweep.start, self.sweep.stop))
            steps.append(Step("standing of clients", self.standing.start, self.standing.stop))
        else:
            steps.append(Step("sweep of allocations", self.allocations.start, self.allocations.stop))
        if self.admin is not None:
            steps.append(Step("admin API", self.admin.start, self.admin.stop))
        if self.health is not None:
            steps.append(Step("health endpoint", self.health.start, self.health.stop))
        if self.frontend is not None:
            steps.append(Step("frontend", self._open_frontend, self.frontend.drain_and_close))
        if self.admin is not None:
            steps.append(Step("readiness of the admin API", self.admin.serving, self.admin.draining))
        return [*steps, Step("readiness for clients", self.readiness.begin, self.readiness.end)]

    def _listen(self) -> Awaitable[None] | None:
        return self.listener.start(self.dispatcher.dispatch, self.broadcasts.refresh_soon)

    async def _open_frontend(self) -> None:
        assert self.frontend is not None, "there is a step for it only if there is one"
        bound: Any = await self.frontend.open()
        log.info("HTTPS frontend listens on {address}", address=show(bound.host, bound.port))

    def _start_backlog(self) -> None:
        if self._processes:
            self.backlog.start()

    async def _finish_processing(self) -> None:
        """Let messages that are being processed end; those that take too long stay pending."""
        ending = [Deferred.fromCoroutine(work) for work in (self.backlog.stop(), self.inserter.stop())]
        await self.manager.drain()
        for ended in ending:
            await ended

    def _install_services(self, factories: Iterable[IServerServiceFactory], now_ns: Callable[[], int]) -> None:
        system = SystemService(
            self.store,
            self.cache.invalidate,
            now_ns,
            self.reactor,
            lookup=self.cache.lookup,
            stats=self.stats,
        )
        self.manager.add(SYSTEM, system)
        known = list(factories)
        try:
            for config in self.settings.services:
                self.manager.install(config, known, self._context)
        except ConfigError as error:
            raise ConfigError(f"Unable to initialize Fleetspeak server: {error}") from None

    def _context(self, service_name: str) -> IServerServiceContext:
        return ServiceContext(service_name, self.reactor, self.inserter.insert, self.cache.lookup)

    def _frontend(self, now_ns: Callable[[], int]) -> HttpsFrontend | None:
        settings = self.settings
        if settings.https_address is None:
            return None
        authorizer = make_authorizer(settings, self.reactor)
        contacts = ContactHandler(
            self.store,
            authorizer,
            self.manager,
            self.cache,
            self.dispatcher,
            streaming_to=lambda: self.listener.address,
            now_ns=now_ns,
            broadcaster=self.broadcasts,
            enrolment=self.enrolment,
            stats=self.stats,
        )
        return HttpsFrontend(contacts, authorizer, settings, self.reactor, files=self.files, stats=self.stats)

    def _admin(self) -> AdminServer | None:
        if self.settings.admin_address is None:
            return None
        host, port = self.settings.admin_address
        return AdminServer(
            self._served(),
            host,
            port,
            self.reactor,
            access=self.settings.admin_access,
            trail=self.trail,
            stats=self.stats,
        )

    def _served(self) -> list[Served]:
        """What the admin API serves."""
        changed = self._broadcasts_changed
        files = FileStorage(self.store, self._file_stores, self._in_thread)
        operations = AdminOperations(self.store, self.inserter, self.standing.client_changed, changed, files)
        for_operators = make_operations(
            self.store,
            files,
            self._now_ns,
            self.reactor.seconds,
            broadcasts_changed=changed,
            client_changed=self.standing.client_changed,
            enrolment_changed=lambda: None if self.enrolment is None else self.enrolment.look_soon(),
            messages_due=self.backlog.wake,
        )
        return [
            Served(admin.DESCRIPTOR.services_by_name["Admin"], [operations]),
            Served(
                operator.DESCRIPTOR.services_by_name["Operator"],
                [*for_operators, AuditOperations(self.store, self.trail.settled)],
            ),
        ]

    def _in_thread(self, *call: Any) -> Deferred[Any]:
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), *call)

    def _broadcasts_changed(self) -> None:
        self.broadcasts.refresh_soon()
        self.notifier.broadcasts_changed()

    def _health(self) -> ProbeEndpoint | None:
        if self.settings.health_address is None:
            return None
        return health_endpoint(self.settings.health_address, self.readiness, self.reactor)

    def _measured(self, store: IStore) -> IStore:
        """`store`, with its operations and batches counted if anybody listens."""
        if not self.stats.active:
            return store
        if isinstance(store, SqlStore):
            store.observe(self.stats.store_batch)
        return MeasuredStore(store, self.stats)

    def _metrics(self) -> ProbeEndpoint | None:
        collector, address = self.collector, self.settings.stats_address
        if collector is None or address is None:
            return None
        try:
            from fleetspeak.server.stats.endpoint import make_endpoint  # its library is an extra
        except ImportError as error:
            raise ConfigError(
                f"stats_config needs prometheus-client ({error}); "
                'install it with: pip install "fleetspeak-twisted[metrics]"'
            ) from None
        watch_server(collector, self.store, self.manager, self.cache)
        return make_endpoint(collector, address, self.reactor)


def make_server(
    settings: ServerSettings,
    factories: Iterable[IServerServiceFactory],
    reactor: Any,
    notifier: Notifier | None = None,
    file_stores: Mapping[str, IFileStore] | None = None,
    collectors: Sequence[IServerStats] = (),
    notifications: Notifications | None = None,
) -> SteppedService:
    """The whole server as a service.  Raises ConfigError.

    @param notifier: tells systemd; by default nobody is told.
    @param file_stores: see `Server`.
    @param collectors: see `Server`.
    @param notifications: see `Server`.
    """
    told = notifier or Notifier()
    server = Server(
        settings,
        factories,
        reactor,
        file_stores=file_stores,
        collectors=collectors,
        notifications=notifications,
    )
    end = ProcessEnd(reactor)

    def announce() -> None:
        for warning in settings.warnings:
            log.warn("{warning}", warning=warning)
        for line in settings.announcement.splitlines():
            log.info("{line}", line=line)
        log.info("Fleetspeak server started.")

    steps = [
        Step("signals", end.begin),
        # systemd's watchdog is fed while parts start, and while they drain.
        Step("watchdog of systemd", lambda: told.start(reactor, str), told.stop),
        *server.steps(),
        Step("readiness", told.ready, told.stopping),
    ]
    return SteppedService(steps, announce, lambda: end.end(FAILED), reactor)
