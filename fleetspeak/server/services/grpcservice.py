"""The factory `GRPC`: forwards each message to a program that serves `fleetspeak.grpcservice.Processor`.

grpc must not be imported before the process has forked for the last time, so it is imported, and the channel
made, when the service starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer

from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceContext, IServerServiceFactory
from fleetspeak.pb import common, grpcservice
from fleetspeak.server.grpcimport import ensure_grpc
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

CHANNEL_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 10_000),  # the default, 2 min, would leave a target that is back unused
    ("grpc.max_send_message_length", -1),
)


class CallFailed(Exception):
    """One try ended with a status other than OK."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


@implementer(IServerService)
class GrpcService:
    """One channel to one target; a call per message and try, any number at a time, none of which holds a thread."""

    def __init__(self, target: str, trusted_pem: bytes | None, reactor: Any) -> None:
        """@param trusted_pem: the trusted certificates for TLS, or None for plaintext."""
        self._target = target
        self._trusted_pem = trusted_pem
        self._reactor = reactor
        self._channel: grpc.Channel | None = None
        self._process: Callable[..., Any] | None = None

    def start(self) -> None:
        """Make the channel.  It connects with the first message; a target that is down is no failure."""
        ensure_grpc()
        import grpc

        from fleetspeak import rpc

        if self._trusted_pem is None:
            self._channel = grpc.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(root_certificates=self._trusted_pem)
            self._channel = grpc.secure_channel(self._target, credentials, options=CHANNEL_OPTIONS)
        self._process = rpc.grpcservice.ProcessorStub(self._channel).Process.future

    def stop(self) -> None:
        """Close the channel; calls that still run fail as cancelled."""
        self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

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
        return GrpcService(config.target, _read_certificates(where, Path(config.cert_file)), context.reactor)


def _read_certificates(where: str, path: Path) -> bytes:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: cannot read cert_file {os.fspath(path)}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError(f"{where}: there is no PEM certificate in cert_file {os.fspath(path)}")
    return pem
