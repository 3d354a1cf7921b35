"""The factories `GRPC` and `GRPC_TLS`: forward messages to a program that serves `fleetspeak.grpcservice.Processor`.

The first one has upstream's configuration, the second one ours, with all that TLS needs.

grpc must not be imported before the process has forked for the last time, so it is imported, and the channel
made, when the service starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceContext, IServerServiceFactory
from fleetspeak.pb import common, grpcservice, grpctlsservice
from fleetspeak.server.grpcimport import ensure_grpc
from fleetspeak.server.services.grpctls import Credentials, TlsFiles
from fleetspeak.server.services.manager import PROCESSING_LIMIT

if TYPE_CHECKING:
    import grpc

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

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_reconnect_backoff_ms", 10_000),  # the default, 2 min, would leave a target that is back unused
    ("grpc.max_send_message_length", -1),
)


LOOK_INTERVAL = 60.0
"""Least seconds between two looks whether the files of TLS have changed."""

log = Logger()


class CallFailed(Exception):
    """One try ended with a status other than OK."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


@implementer(IServerService)
class GrpcService:
    """One channel to one target; a call per message and try, any number at a time, none of which holds a thread."""

    def __init__(self, target: str, tls: TlsFiles | None, reactor: Any) -> None:
        """@param tls: None for plaintext.  @raise ConfigError: its files cannot be used."""
        self._target = target
        self._tls = tls
        self._credentials = None if tls is None else tls.read()
        self._reactor = reactor
        self._channel: grpc.Channel | None = None
        self._retired: dict[grpc.Channel, Any] = {}
        """Channels that calls may still run on, with the timers that close them."""
        self._process: Callable[..., Any] | None = None
        self._next_look = 0.0

    def start(self) -> None:
        """Make the channel.  It connects with the first message; a target that is down is no failure."""
        ensure_grpc()
        self._open(self._credentials)

    def _open(self, credentials: Credentials | None) -> None:
        from fleetspeak import rpc

        self._channel = _make_channel(self._target, credentials, "" if self._tls is None else self._tls.server_name)
        self._process = rpc.grpcservice.ProcessorStub(self._channel).Process.future
        self._next_look = self._reactor.seconds() + LOOK_INTERVAL

    def stop(self) -> None:
        """Close the channels; calls that still run fail as cancelled."""
        self._process = None
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
        log.info("the files of TLS to {target} have changed, and were read anew", target=self._target)

    def _close_retired(self, channel: grpc.Channel) -> None:
        del self._retired[channel]
        channel.close()

    async def process(self, message: common.Message) -> None:
        """Call the target until it takes the message, refuses it, or the time is up."""
        deadline = self._reactor.seconds() + DEADLINE
        pause = FIRST_PAUSE
        while True:
            try:
                await self._call(message, deadline - self._reactor.seconds())
                return
            except CallFailed as failure:
                last = self._reactor.seconds() + pause >= deadline
                if last or failure.code not in RETRIED:
                    raise _verdict(failure) from None
            await deferLater(self._reactor, pause)
            pause *= 2

    def _call(self, message: common.Message, seconds: float) -> Deferred[None]:
        """One try.  Cancelling the Deferred cancels the call."""
        if self._process is None:
            raise TemporaryError("connection unavailable")
        if self._tls is not None and self._reactor.seconds() >= self._next_look:
            self._look_for_new_files(self._tls)
        call = self._process(message, timeout=seconds)
        done: Deferred[None] = Deferred(lambda _: call.cancel())
        call.add_done_callback(lambda finished: self._reactor.callFromThread(_conclude, finished, done))
        return done


def _conclude(call: Any, done: Deferred[None]) -> None:
    """Back in the reactor's thread."""
    if done.called:  # it was cancelled meanwhile
        return
    code = call.code().name
    if code == "OK":
        done.callback(None)
    else:
        done.errback(CallFailed(code, call.details() or ""))


def _verdict(failure: CallFailed) -> TemporaryError | PermanentError:
    return (TemporaryError if failure.code in TEMPORARY else PermanentError)(str(failure))


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
        if config.insecure:
            return GrpcService(config.target, None, context.reactor)
        if not config.cert_file:
            shown = " ".join(str(config).split())
            raise ConfigError(f"{where}: GRPCService requires either insecure or cert_file to be set, got: {shown}")
        return GrpcService(config.target, TlsFiles(where, config.cert_file), context.reactor)


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
        return GrpcService(config.target, files, context.reactor)


def _make_channel(target: str, credentials: Credentials | None, server_name: str) -> grpc.Channel:
    import grpc

    if credentials is None:
        return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
    made = grpc.ssl_channel_credentials(
        root_certificates=credentials.trusted,
        private_key=credentials.key,
        certificate_chain=credentials.certificate,
    )
    options = list(CHANNEL_OPTIONS)
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.secure_channel(target, made, options=options)
