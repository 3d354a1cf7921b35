"""The factory ``Socket``: a process that comes by itself, over a Unix socket, and exchanges messages with it."""

from __future__ import annotations

import socket
from typing import Any

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.client.process.handedover import Frame
from fleetspeak.client.sockets.connection import Limits, PeerGone, SocketConnection
from fleetspeak.client.sockets.listening import Listener, SocketFile, credentials_of
from fleetspeak.client.sockets.monitoring import PeerMonitor
from fleetspeak.core.inflight import InFlight
from fleetspeak.core.usage import SamplingRules, sampling_rules
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IClientService, IClientServiceContext, IClientServiceFactory
from fleetspeak.pb import common, socket_config
from fleetspeak.wire import channelframes, socketfile


@implementer(IPlugin, IClientServiceFactory)
class SocketFactory:
    """Makes `SocketService`s."""

    name = "Socket"
    help = "exchanges messages with a process that connects to a Unix socket"
    config_type = socket_config.Config

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    def make(self, config: ProtobufMessage | None, context: IClientServiceContext) -> IClientService:
        """Raises ConfigError if the path is missing or is none that a socket can have, or for a bad sample size."""
        if not isinstance(config, socket_config.Config) or not config.api_proxy_path:
            raise ConfigError('api_proxy_path required, for instance api_proxy_path: "/run/fleetspeak/hello/socket"')
        problem = socketfile.problem_with_path(config.api_proxy_path)
        if problem:
            raise ConfigError(problem)
        rules = sampling_rules(config.resource_monitoring_sample_size, config.resource_monitoring_sample_period_seconds)
        monitored = None if config.disable_resource_monitoring else rules
        return SocketService(config.api_proxy_path, monitored, context, self._limits)


@implementer(IClientService)
class SocketService:
    """Listens, and talks to one process at a time; a message is processed as soon as the socket has taken it.

    Messages wait while no process is connected.  What a process did not take, or left unread in its socket as far
    as that can be known, goes to the next one.
    """

    _log = Logger()

    def __init__(self, path: str, rules: SamplingRules | None, context: IClientServiceContext, limits: Limits) -> None:
        """@param rules: for watching what the processes use; None: they are not watched."""
        self._rules = rules
        self._context = context
        self._limits = limits
        self._clock: Any = context.reactor
        self._file = SocketFile(path)
        self._listener: Listener | None = None
        self._in_flight = InFlight()
        self._connection: SocketConnection | None = None
        self._attending: Deferred[None] | None = None
        self._ready = False
        """The process has everything that earlier ones left over, and takes more."""
        self._left_over = context.left_over
        self._waiting: list[Deferred[SocketConnection]] = []

    def start(self) -> None:
        """Listen.  Raises ConfigError or OSError."""
        self._listener = Listener(self._clock, self._file.bind(), self._accepted)
        self._listener.accept_one()

    async def process(self, message: common.Message) -> None:
        """Done when the socket of a process has taken it.  Raises TooLarge for one that no channel carries."""
        frame = Frame(channelframes.encode(message.SerializeToString()))
        while True:
            connection = await self._ready_connection()
            try:
                await connection.deliver(frame)
            except PeerGone:
                self._ready = False
            else:
                return

    def stop(self) -> Deferred[None] | None:
        """Remove the socket, acknowledge what has arrived, and close the connection: within 2 s, whoever is there."""
        if self._listener is not None:
            self._listener.close()
            self._file.remove()
        if self._connection is not None:
            self._connection.stop()
        return self._attending

    # ---- one connection after the other

    def _accepted(self, accepted: socket.socket) -> None:
        assert self._listener is not None
        peer = credentials_of(accepted)
        if peer is not None and not peer.trusted:
            self._log.warn(
                "service {service}: turned away process {pid} of user {uid}",
                service=self._context.service_name,
                pid=peer.pid,
                uid=peer.uid,
            )
            accepted.close()
            self._listener.accept_one()
            return
        monitor = PeerMonitor(self._rules, self._context) if self._rules is not None else None
        connection = SocketConnection(self._context, self._clock, self._in_flight, peer, monitor, self._limits)
        factory = Factory.forProtocol(lambda: connection)
        factory.noisy = False
        with accepted:
            try:
                self._clock.adoptStreamConnection(accepted.fileno(), socket.AF_UNIX, factory)
            except OSError as error:
                self._listener.retry(error)
                return
        self._connection = connection
        self._attending = Deferred.fromCoroutine(self._attend(connection))
        self._attending.addErrback(
            lambda failure: self._log.failure("service {service} failed", failure, service=self._context.service_name)
        )

    async def _attend(self, connection: SocketConnection) -> None:
        """Hand out what waits, and be there until the connection is over."""
        handing_over = Deferred.fromCoroutine(self._make_ready(connection))
        await connection.over()
        await handing_over
        self._connection = None
        self._ready = False
        await self._left_over.put_back(connection.left_over())
        self._context.stats.socket_closed(self._context.service_name, connection.problem)
        assert self._listener is not None
        self._listener.accept_one()

    async def _make_ready(self, connection: SocketConnection) -> None:
        """Hand over what earlier processes did not read, then let in what comes."""
        try:
            await connection.opened()
            await self._left_over.load()
            while self._left_over:
                await connection.deliver(self._left_over.first)
                await self._left_over.delivered()
        except PeerGone:
            return
        self._ready = True
        waiting, self._waiting = self._waiting, []
        for ready in waiting:
            ready.callback(connection)

    async def _ready_connection(self) -> SocketConnection:
        if self._ready and self._connection is not None and not self._connection.ending:
            return self._connection
        ready: Deferred[SocketConnection] = Deferred(self._waiting.remove)
        self._waiting.append(ready)
        return await ready
