"""The factories `GRPC` and `GRPC_TLS`: forward messages to a program that serves `fleetspeak.grpcservice.Processor`.

The first one has upstream's configuration, the second one ours, with all that TLS needs.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceContext, IServerServiceFactory
from fleetspeak.pb import common, grpcservice, grpctlsservice
from fleetspeak.security.tls import target_tls
from fleetspeak.server.services.callchannel import CallChannel
from fleetspeak.server.services.grpctls import Credentials, TlsFiles
from fleetspeak.server.services.manager import PROCESSING_LIMIT
from fleetspeak.wire.grpccalls import Status, Target, parse_target, request_head

METHOD = "/fleetspeak.grpcservice.Processor/Process"

DEADLINE = PROCESSING_LIMIT - 1.0
"""Seconds for one message, all tries together: a little less than the manager grants, so that the last error,
and not the manager's cancelling, decides."""

FIRST_PAUSE = 1.0
"""Seconds before the second try; doubled before each further one."""

TEMPORARY = frozenset(
    ("DEADLINE_EXCEEDED", "UNAVAILABLE", "ABORTED", "CANCELLED", "UNAUTHENTICATED", "PERMISSION_DENIED")
)
"""Status codes that leave a message pending when time is up; every other one makes it failed.  Upstream's list."""

RETRIED = frozenset(("UNAVAILABLE", "ABORTED", "CANCELLED", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED"))
"""Status codes after which another try before the deadline can help.  UNKNOWN is what an exception in a
receiver written in Python comes as, and existing receivers count on being called again after one."""

LOOK_INTERVAL = 60.0
"""Least seconds between two looks whether the files of TLS have changed."""

log = Logger()


@implementer(IServerService)
class GrpcService:
    """One channel to one target; a call per message and try, any number at a time, all of them in the reactor."""

    def __init__(self, target: Target, tls: TlsFiles | None, reactor: Any) -> None:
        """@param tls: None for plaintext.  @raise ConfigError: its files cannot be used."""
        self._target = target
        self._tls = tls
        self._credentials = None if tls is None else tls.read()
        self._reactor = reactor
        self._channel: CallChannel | None = None
        self._retired: dict[CallChannel, Any] = {}
        """Channels that calls may still run on, with the timers that close them."""
        self._next_look = 0.0

    def start(self) -> None:
        """Make the channel.  It connects with the first message; a target that is down is no failure."""
        self._open(self._credentials)

    def _open(self, credentials: Credentials | None) -> None:
        server_name = "" if self._tls is None else self._tls.server_name
        self._channel = _make_channel(self._target, credentials, server_name, self._reactor)
        self._next_look = self._reactor.seconds() + LOOK_INTERVAL

    def stop(self) -> None:
        """Close the channels; calls that still run fail as cancelled."""
        for channel, timer in self._retired.items():
            timer.cancel()
            channel.close()
        self._retired.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _look_for_new_files(self, tls: TlsFiles) -> None:
        """A certificate that was renewed is used from now on; calls that run end on the channel they have."""
        self._next_look = self._reactor.seconds() + LOOK_INTERVAL
        if not tls.changed():
            return
        try:
            credentials = tls.read()
        except ConfigError as error:
            log.error("the files of TLS have changed, and cannot be used, so the old ones are: {error}", error=error)
            return
        if self._channel is not None:
            self._retired[self._channel] = self._reactor.callLater(DEADLINE, self._close_retired, self._channel)
        self._open(credentials)
        log.info("the files of TLS to {target} have changed, and were read anew", target=self._target.authority)

    def _close_retired(self, channel: CallChannel) -> None:
        del self._retired[channel]
        channel.close()

    async def process(self, message: common.Message) -> None:
        """Call the target until it takes the message, refuses it, or the time is up."""
        deadline = self._reactor.seconds() + DEADLINE
        pause = FIRST_PAUSE
        while True:
            status = _checked(await self._call(message, deadline - self._reactor.seconds()))
            if status.code == "OK":
                return
            if status.code not in RETRIED or self._reactor.seconds() + pause >= deadline:
                raise _verdict(status)
            await deferLater(self._reactor, pause)
            pause *= 2

    def _call(self, message: common.Message, seconds: float) -> Deferred[Status]:
        """One try.  Cancelling the Deferred cancels the call."""
        if self._channel is None:
            raise TemporaryError("connection unavailable")
        if self._tls is not None and self._reactor.seconds() >= self._next_look:
            self._look_for_new_files(self._tls)
        return self._channel.call(message.SerializeToString(), seconds)


def _checked(status: Status) -> Status:
    """The reply is an empty message, as nearly all are, or at least one."""
    if status.reply:
        try:
            common.EmptyMessage.FromString(status.reply)
        except DecodeError:
            return Status("INTERNAL", "the reply is no fleetspeak.EmptyMessage")
    return status


def _verdict(status: Status) -> TemporaryError | PermanentError:
    return (TemporaryError if status.code in TEMPORARY else PermanentError)(f"{status.code}: {status.details}")


@implementer(IPlugin, IServerServiceFactory)
class GrpcFactory:
    """Makes `GrpcService`s."""

    name = "GRPC"
    help = "Forwards each message to the gRPC service fleetspeak.grpcservice.Processor at a target."
    config_type = grpcservice.Config

    def make(self, config: ProtobufMessage | None, context: IServerServiceContext) -> GrpcService:
        """Raises ConfigError unless there is a target, and either `insecure` or a `cert_file` that can be read."""
        where = f'service "{context.service_name}"'
        if not isinstance(config, grpcservice.Config):
            raise ConfigError(f"{where}: factory [GRPC] needs a config of type fleetspeak.grpcservice.Config")
        if not config.target:
            raise ConfigError(f"{where}: the config of factory [GRPC] must name a target, such as localhost:1337")
        target = _target(where, config.target)
        if config.insecure:
            return GrpcService(target, None, context.reactor)
        if not config.cert_file:
            shown = " ".join(str(config).split())
            raise ConfigError(f"{where}: GRPCService requires either insecure or cert_file to be set, got: {shown}")
        return GrpcService(target, TlsFiles(where, config.cert_file), context.reactor)


@implementer(IPlugin, IServerServiceFactory)
class GrpcTlsFactory:
    """Makes `GrpcService`s that use TLS, and may have a certificate of their own."""

    name = "GRPC_TLS"
    help = "Like GRPC, with TLS: the system's authorities or your own, a client certificate, another server name."
    config_type = grpctlsservice.Config

    def make(self, config: ProtobufMessage | None, context: IServerServiceContext) -> GrpcService:
        """Raises ConfigError unless there is a target, and all files that are named can be read and used."""
        where = f'service "{context.service_name}"'
        if not isinstance(config, grpctlsservice.Config):
            raise ConfigError(f"{where}: factory [GRPC_TLS] needs a config of type fleetspeak.grpctlsservice.Config")
        if not config.target:
            raise ConfigError(f"{where}: the config of factory [GRPC_TLS] must name a target, such as localhost:1337")
        files = TlsFiles(where, config.cert_file, config.client_cert_file, config.client_key_file, config.server_name)
        return GrpcService(_target(where, config.target), files, context.reactor)


def _target(where: str, text: str) -> Target:
    try:
        return parse_target(text)
    except ValueError as error:
        raise ConfigError(f"{where}: the target: {error}") from None


def _make_channel(target: Target, credentials: Credentials | None, server_name: str, reactor: Any) -> CallChannel:
    endpoint: IStreamClientEndpoint
    if target.path:
        endpoint = UNIXClientEndpoint(reactor, target.path)  # type: ignore[no-untyped-call]
    else:
        endpoint = HostnameEndpoint(reactor, target.host, target.port)
    if credentials is not None:
        name = server_name or target.host or "localhost"
        tls_options = target_tls(credentials.trusted, name, credentials.chain, credentials.key)
        endpoint = wrapClientTLS(tls_options, endpoint)
    tls = credentials is not None
    return CallChannel(endpoint, request_head(METHOD, target.authority, tls=tls), reactor, tls=tls)
