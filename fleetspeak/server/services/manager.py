"""The services of a server: installs them, and gives each message to the one it is addressed to."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.errors import ConfigError, NotReady
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import (
    IBatchServerService,
    IServerEndpoint,
    IServerService,
    IServerServiceContext,
    IServerServiceFactory,
)
from fleetspeak.lookup import PLUG_INS, make, must_provide, origin_of
from fleetspeak.pb import common, services
from fleetspeak.program.awaiting import failure_of, when_done
from fleetspeak.records import ClientData
from fleetspeak.server.services.batches import BatchRunner
from fleetspeak.server.services.outcome import SHOWN, cut, fail
from fleetspeak.server.services.runner import LOG_INTERVAL, Call, ServiceRunner
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.stats import NO_STATS, ServerStats
from fleetspeak.server.stats.attempt import Attempt

PROCESSING_LIMIT = 30.0
"""Seconds that the processing of messages which came together may take, waiting in line included."""

STOP_GRACE = 5.0
"""Seconds that running calls are left before they are cancelled when the server stops."""

DEFAULT_PARALLELISM = 100
SYSTEM = "system"
RESERVED_NAMES = frozenset(("", SYSTEM, "client"))

log = Logger()


class Send(Protocol):
    """How a service's message enters the system: `fleetspeak.server.inserts.Inserter.insert`."""

    def __call__(self, message: common.Message) -> Awaitable[None]: ...


class Lookup(Protocol):
    """How a service learns of a client: the client cache."""

    def __call__(self, client_id: ClientId) -> Awaitable[ClientData | None]: ...


ClientOf = Callable[[common.Message], ClientData | None]
"""Gives what is known of the sender of a message."""


def nobody(_: common.Message) -> ClientData | None:
    """For messages of which it is not known, or not of interest, who sent them."""
    return None


@implementer(IServerServiceContext)
class ServiceContext:
    """What one service may use."""

    def __init__(self, service_name: str, reactor: Any, send: Send, lookup: Lookup) -> None:
        self.service_name = service_name
        self.reactor = reactor
        self._send = send
        self._lookup = lookup

    def send(self, message: common.Message) -> Awaitable[None]:
        """Send from this service; id and creation time are filled in where they are missing."""
        message.source.Clear()
        message.source.service_name = self.service_name
        return self._send(message)

    def client_data(self, client_id: ClientId) -> Awaitable[ClientData | None]:
        """Look up a client."""
        return self._lookup(client_id)


class ServiceManager:
    """Gives messages to services and attaches the results.  All in the reactor's thread.

    It is the contact pipeline's ingestor.
    """

    def __init__(
        self,
        reactor: Any,
        now_ns: Callable[[], int] = time.time_ns,
        stats: ServerStats = NO_STATS,
        *,
        refuse_unknown: bool = True,
    ) -> None:
        """@param refuse_unknown: a message to a service that there is not fails; else it is left to other servers."""
        self._refuses_unknown = refuse_unknown
        self._reactor = reactor
        self._now_ns = now_ns
        self._stats = stats
        self._runners: dict[str, ServiceRunner] = {}
        self._started: list[ServiceRunner] = []
        self._open = True
        self._calls: set[Call] = set()
        self._unknown = SparseLog(reactor, LOG_INTERVAL)

    # -- installation

    def install(
        self,
        config: services.ServiceConfig,
        factories: Iterable[IServerServiceFactory],
        make_context: Callable[[str], IServerServiceContext],
    ) -> None:
        """Build the service of one entry of the configuration; `start` then starts it.

        A later entry of the same name replaces the earlier one.  Raises ConfigError.
        """
        if config.name in RESERVED_NAMES:
            raise ConfigError(f"illegal service name [{config.name}]")
        factory = _find(config.factory, factories)
        settings = _unpack(config, factory)
        if config.name in self._runners:
            log.warn('service "{name}" is configured twice; the later entry counts', name=config.name)
        service = make(factory, IServerEndpoint, settings, make_context(config.name))
        kind = IBatchServerService if IBatchServerService.providedBy(service) else IServerService
        must_provide(kind, service, lambda: f"what {type(factory).__name__} of {origin_of(factory)} made")
        self.add(config.name, service, config.max_parallelism or DEFAULT_PARALLELISM)

    def add(
        self, name: str, service: IServerService | IBatchServerService, max_parallelism: int = DEFAULT_PARALLELISM
    ) -> None:
        """Install a service that is built already."""
        kind = BatchRunner if IBatchServerService.providedBy(service) else ServiceRunner
        self._runners.pop(name, None)
        self._runners[name] = kind(name, cast(IServerService, service), max_parallelism, self._reactor, self._now_ns)

    async def start(self) -> None:
        """Start all services in the order of their installation.

        Raises ConfigError naming the one that cannot; those before it are stopped again.
        """
        for name, runner in self._runners.items():
            try:
                starting = runner.service.start()
                if starting is not None:
                    await starting
            except BaseException as error:
                await self.stop()
                raise _cannot_start(name, runner.service, error) from error
            self._started.append(runner)

    async def stop(self) -> None:
        """Take no more messages, let running calls end, then stop the services, last one first."""
        await self.drain()
        while self._started:
            runner = self._started.pop()
            try:
                stopping = runner.service.stop()
                if stopping is not None:
                    await stopping
            except BaseException:
                log.failure('service "{name}" failed to stop cleanly', name=runner.name)

    # -- messages

    async def process(self, messages: Sequence[common.Message], client: ClientData | None, first_try: bool) -> None:
        """Process messages of one client; see `run`.

        `client` is None for messages of server services.  `first_try` is False for overdue messages.
        """
        blocklisted = client is not None and client.blacklisted
        for message in messages:
            message.is_blocklisted_source = blocklisted
        await self.run(messages, first_try, lambda _: client)

    async def run(
        self, messages: Sequence[common.Message], first_try: bool = True, client_of: ClientOf = nobody
    ) -> None:
        """Process all `messages` side by side, for at most `PROCESSING_LIMIT` seconds in all.

        Each message that was processed, or failed for good, then has its `result`, and its payload is dropped.
        One without a result is to stay pending.  Raises NotReady when the server is stopping; and whoever
        cancels this must not use the messages any more.

        `client_of` is only asked if somebody counts.
        """
        if not self._open:
            raise NotReady("the services are stopped")
        batches: dict[BatchRunner, list[common.Message]] = {}
        calls = []
        runners, counting = self._runners, self._stats.active
        for message in messages:
            runner = runners.get(message.destination.service_name)
            if runner is None:
                self._refuse(message, first_try)
                continue
            if isinstance(runner, BatchRunner):
                batches.setdefault(runner, []).append(message)
                continue
            attempt = self._attempt(message, first_try, client_of) if counting else None
            call = runner.begin(message, attempt, first_try)
            if call is not None:
                calls.append(call)
        for batch_runner, batch in batches.items():
            attempts = [self._attempt(message, first_try, client_of) for message in batch]
            if (call := batch_runner.begin_batch(batch, attempts, first_try)) is not None:
                calls.append(call)
        if calls:
            await self._settle(calls)

    def room(self, in_hand: Mapping[str, int], tell: Callable[[], None]) -> dict[str, int]:
        """How many messages of the backlog each service may be given; for one without room, `tell` is called later.

        @param in_hand: messages that the backlog has given to each already.
        """
        found = {}
        for name, runner in self._runners.items():
            found[name] = room = runner.room(in_hand.get(name, 0))
            if not room:
                runner.when_room(tell)
        return found

    def _attempt(self, message: common.Message, first_try: bool, client_of: ClientOf) -> Attempt | None:
        stats = self._stats
        if not stats.active:
            return None
        return Attempt(stats, message, message.destination.service_name, client_of(message), first_try)

    def _refuse(self, message: common.Message, first_try: bool) -> None:
        if not self._refuses_unknown:
            return
        name = message.destination.service_name
        self._stats.message_errored(message, name, 0.0, True, first_try, None)
        fail(message, f'unknown service "{name}"', self._now_ns())
        if self._unknown.due():
            log.error(
                'a message is addressed to the unknown service "{name}" and has failed ({more} more since the last '
                "line)",
                name=cut(name, SHOWN),
                more=self._unknown.take_held_back(),
            )

    async def _settle(self, calls: list[Call]) -> None:
        self._calls.update(calls)
        timer = self._reactor.callLater(PROCESSING_LIMIT, _give_up, calls)
        try:
            for call in calls:
                await call.settled
        finally:
            if timer.active():
                timer.cancel()
            _give_up(calls)  # only does something when we are cancelled ourselves
            self._calls.difference_update(calls)

    def load(self) -> dict[str, tuple[int, int]]:
        """By service: how many calls are running, and how many messages wait in line."""
        return {name: runner.load for name, runner in self._runners.items()}

    async def drain(self) -> None:
        """Take no more messages; leave running calls `STOP_GRACE` seconds, then give them up."""
        self._open = False
        calls = list(self._calls)
        if not calls:
            return
        timer = self._reactor.callLater(STOP_GRACE, _give_up, calls)
        try:
            for call in calls:
                await when_done(call.settled)
        finally:
            if timer.active():
                timer.cancel()


def _give_up(calls: list[Call]) -> None:
    for call in reversed(calls):  # those in line first, so that they do not move up only to be cancelled
        call.give_up()


def _cannot_start(name: str, service: object, error: BaseException) -> ConfigError:
    if isinstance(error, ConfigError):
        return ConfigError(f'service "{name}" cannot start: {error}')
    log.failure('service "{name}" cannot start', failure=failure_of(error), name=name)
    whose = f"{type(service).__name__} of {origin_of(service)}"
    return ConfigError(f'service "{name}" cannot start: {type(error).__name__}: {error}, in {whose}')


def _find(name: str, factories: Iterable[IServerServiceFactory]) -> IServerServiceFactory:
    factories = list(factories)
    found = [factory for factory in factories if factory.name == name]
    if not found:
        known = PLUG_INS.instead([factory.name for factory in factories])
        raise ConfigError(f"unable to find factory [{name}]; {known}")
    if len(found) > 1:
        kinds = " and ".join(sorted(type(factory).__module__ for factory in found))
        raise ConfigError(f"factory [{name}] is offered by several plug-ins, {kinds}; uninstall all but one")
    return found[0]


def _unpack(config: services.ServiceConfig, factory: IServerServiceFactory) -> ProtobufMessage | None:
    """The entry's configuration as the type that the factory takes; None if there is none, or it takes none."""
    if factory.config_type is None or not config.HasField("config"):
        return None
    settings: ProtobufMessage = factory.config_type()
    wanted = settings.DESCRIPTOR.full_name
    if not _unpack_any(config.config, settings):
        raise ConfigError(
            f'service "{config.name}": factory [{config.factory}] takes a config of type {wanted}, '
            f"got {config.config.type_url or 'one without a type'}"
        )
    return settings


def _unpack_any(packed: AnyProto, into: ProtobufMessage) -> bool:
    try:
        return packed.Unpack(into)
    except DecodeError:
        return False
