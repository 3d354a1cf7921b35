"""Puts a client together from its parts."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from fleetspeak.client.addressing import SYSTEM
from fleetspeak.client.comms.dialing import dialer_named
from fleetspeak.client.core import ClientLink
from fleetspeak.client.files import POLLING_LIMIT, STREAMING_LIMIT, Files
from fleetspeak.client.flow import Flow
from fleetspeak.client.labels import Labels
from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.persistence.clones import CloneCheck
from fleetspeak.client.persistence.filesystem import FilePersistence
from fleetspeak.client.persistence.memory import MemoryPersistence
from fleetspeak.client.process.leftover import LeftOvers
from fleetspeak.client.process.living import LIVING
from fleetspeak.client.process.orphans import mark_of, reap_and_tell
from fleetspeak.client.process.usage import Observe, ObserveInThread, Subject, UsageMonitor
from fleetspeak.client.reports import Reports
from fleetspeak.client.revocation import RevocationUpdates
from fleetspeak.client.router import Router
from fleetspeak.client.service import ClientService
from fleetspeak.client.services.context import ServiceContext
from fleetspeak.client.services.loader import Loaded, load_services
from fleetspeak.client.services.manager import ServiceManager
from fleetspeak.client.services.stdin import StdinFactory, limits_of
from fleetspeak.client.services.system import SystemService
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.client.spool.spool import Spool
from fleetspeak.client.spool.thread import SpoolThread
from fleetspeak.client.state import InThread, StateKeeper
from fleetspeak.client.stats import Stats
from fleetspeak.client.watchdog import Watchdog
from fleetspeak.config.client import ClientSettings
from fleetspeak.core.spool import segment_size
from fleetspeak.core.usage import SamplingRules
from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import (
    IClientServiceContext,
    IClientServiceFactory,
    IClientStats,
    ICommunicator,
    ICommunicatorFactory,
    IContactSigner,
    IPersistence,
)
from fleetspeak.lookup import PLUG_INS
from fleetspeak.program.ending import Ending
from fleetspeak.program.lastacts import at_the_end
from fleetspeak.program.systemd import Notifier


def service_factories(settings: ClientSettings | None = None) -> dict[str, IClientServiceFactory]:
    """The kinds of services there are, built in or plugged in, by name.

    @param settings: limits for the built-in kinds; None: their defaults.
    @raise ConfigError: they are not possible.
    """
    factories: dict[str, IClientServiceFactory] = PLUG_INS.by_name(IClientServiceFactory)
    if settings is not None and isinstance(factories.get(StdinFactory.name), StdinFactory):
        factories[StdinFactory.name] = StdinFactory(limits_of(settings))
    return factories


def communicator_factory(settings: ClientSettings) -> ICommunicatorFactory:
    """The transport that the settings ask for.  Raises ConfigError."""
    wanted = "streaming" if settings.streaming else "polling"
    for factory in PLUG_INS.all(ICommunicatorFactory):
        if factory.name == wanted:
            found: ICommunicatorFactory = factory
            return found
    raise ConfigError(f"the {wanted} communicator is not installed; install fleetspeak-twisted anew")


def persistence_for(settings: ClientSettings) -> IPersistence:
    """Where the settings say that the state is kept."""
    if settings.state_file is None:
        return MemoryPersistence()
    return FilePersistence(settings.state_file, trust=settings.trust)


def spool_folder(settings: ClientSettings) -> Path | None:
    """Where the settings say that messages are kept on the disk, if they are."""
    if settings.state_file is None or settings.spool_limit is None:
        return None
    return settings.state_file.with_name(settings.state_file.name + ".spool")


def spool_for(settings: ClientSettings, reactor: Any) -> Spool | None:
    """What keeps messages there."""
    path = spool_folder(settings)
    if path is None or settings.spool_limit is None:
        return None
    folder = SpoolFolder(path, segment_size(settings.spool_limit))
    return Spool(folder, settings.spool_limit, SpoolThread(reactor), reactor)


def left_overs_for(settings: ClientSettings, in_thread: InThread) -> LeftOvers:
    """What keeps messages that processes have not dealt with: beside the spool, if there is one."""
    path = spool_folder(settings)
    return LeftOvers(None if path is None else path / "unread", in_thread)


def in_thread_of(reactor: Any) -> InThread:
    """Blocking calls go to the reactor's own pool of threads."""

    def in_thread(call: Callable[..., Any], *arguments: object) -> Deferred[Any]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), call, *arguments)

    return in_thread


def build_client(
    settings: ClientSettings,
    reactor: Any,
    ending: Ending,
    *,
    std_forward: bool = False,
    persistence: IPersistence | None = None,
    in_thread: InThread | None = None,
    factories: Mapping[str, IClientServiceFactory] | None = None,
    communicator: ICommunicatorFactory | None = None,
    stats: Sequence[IClientStats] | None = None,
    signers: Sequence[IContactSigner] | None = None,
    watchdog: Watchdog | None = None,
    observe: Observe | None = None,
    notifier: Notifier | None = None,
    read_settings: Callable[[], ClientSettings] | None = None,
    take_hangup: Callable[[Callable[[], None]], None] | None = None,
    spool: Spool | None = None,
) -> ClientService:
    """A client ready to be started.  Touches neither disk nor network yet, except to look for plug-ins.

    @param reactor: tests pass a `Clock`, and then `in_thread` and `observe` as well.
    @param std_forward: attach every daemon to the client's own stdin, stdout and stderr.
    @param stats: who hears of what the client does; by default the plug-ins for that.
    @param signers: who adds a signature to each contact; by default the plug-ins for that.
    @param watchdog: ends the process if the client makes no more attempts at contact.
    @param notifier: tells systemd; by default nobody is told.
    @param read_settings: reads them anew for a reload, in a thread; raises ConfigError.
    @param take_hangup: is given, at the start, what to call when somebody wants a reload.
    @param spool: by default one beside the state file, if the settings want it.
    @raise ConfigError: the settings ask for what is not there.
    """
    if communicator is None:
        communicator_factory(settings)  # or say at once that there is none
    dialer_named(settings.dialer)
    told = Stats(PLUG_INS.all(IClientStats) if stats is None else stats)
    in_thread = in_thread or in_thread_of(reactor)
    labels = Labels(settings.labels)
    state = StateKeeper(persistence or persistence_for(settings), reactor, in_thread, told, settings.revoked_serials)

    def client_id() -> ClientId:
        return state.identity.client_id

    signing = PLUG_INS.all(IContactSigner) if signers is None else signers
    outbox = ClientOutbox(spool=spool or spool_for(settings, reactor), stats=told, client_id=client_id)
    flow = Flow()
    reports = Reports(outbox, reactor, client_id)
    router = Router(outbox, reports, client_id, told)
    link = ClientLink(
        state,
        outbox,
        router,
        flow,
        labels,
        ending,
        time.time_ns,
        told,
        watchdog,
        signers=signing,
    )

    left_overs = left_overs_for(settings, in_thread)
    files = Files(labels, told, reactor, in_thread, POLLING_LIMIT)
    mark: dict[str, str] = {}
    at_the_end(LIVING.kill_all)

    def make_context(service_name: str, service_names: Callable[[], list[str]], /) -> IClientServiceContext:
        return ServiceContext(
            service_name,
            reactor,
            labels,
            router=router,
            files=files,
            client_id=client_id,
            service_names=service_names,
            stats=told,
            std_forward=std_forward,
            child_variables=mark,
            left_over=left_overs.of(service_name),
        )

    manager = ServiceManager(
        service_factories(settings) if factories is None else factories,
        labels,
        router,
        flow,
        reports,
        make_context,
        reactor,
    )
    system = SystemService(state, manager, flow, reports, labels, ending)
    router.add(SYSTEM, system)

    return ClientService(
        state=state,
        outbox=outbox,
        router=router,
        reports=reports,
        manager=manager,
        system=system,
        reap=_reaper(settings, mark, in_thread),
        files=files,
        revocation=RevocationUpdates(files, state, reactor),
        labels=labels,
        clones=_clone_check(settings, labels, in_thread, state),
        settings=settings,
        load_services=_services_of,
        make_communicator=_communicator_maker(communicator, link, files, reactor),
        make_monitor=_monitor_maker(reports, reactor, observe),
        ending=ending,
        clock=reactor,
        watchdog=watchdog,
        notifier=notifier or Notifier(),
        describe=link.describe,
        read_settings=read_settings,
        in_thread=in_thread,
        take_hangup=take_hangup,
    )


def _clone_check(
    settings: ClientSettings, labels: Labels, in_thread: InThread, state: StateKeeper
) -> CloneCheck | None:
    if settings.state_file is None or not settings.clone_check:
        return None
    clones = CloneCheck(settings.state_file, labels, in_thread, settings.trust)
    state.on_rekey(clones.rekeyed)
    return clones


def _reaper(settings: ClientSettings, mark: dict[str, str], in_thread: InThread) -> Callable[[], Awaitable[None]]:
    """What ends the children that an earlier client left, and from then on marks ours in `mark`."""

    async def reap() -> None:
        # Not before the start, when the lock on the state says that no other client has children with this mark.
        if settings.state_file is not None:
            mark.update(mark_of(settings.state_file))
            await in_thread(reap_and_tell, mark)

    return reap


def _communicator_maker(
    communicator: ICommunicatorFactory | None, link: ClientLink, files: Files, reactor: Any
) -> Callable[[ClientSettings], ICommunicator]:
    def make_communicator(settings: ClientSettings) -> ICommunicator:
        made: ICommunicator = (communicator or communicator_factory(settings)).make(link, settings, reactor)
        link.streaming = settings.streaming
        files.request_limit = STREAMING_LIMIT if settings.streaming else POLLING_LIMIT
        return made

    return make_communicator


def _monitor_maker(reports: Reports, reactor: Any, observe: Observe | None) -> Callable[[], UsageMonitor]:
    made_ns = time.time_ns()

    def make_monitor() -> UsageMonitor:
        # Not before the start: twistd forks between the two.
        subject = Subject(SYSTEM, os.getpid(), started_ns=made_ns)
        return UsageMonitor(subject, SamplingRules(), reports.usage, reactor, observe or ObserveInThread(reactor))

    return make_monitor


def _services_of(settings: ClientSettings) -> Loaded:
    return load_services(
        settings.configuration_directory, settings.deployment_keys, settings.trust, settings.fixed_services
    )
