"""How a server-side service program, in a process of its own, gets messages from Fleetspeak and sends messages.

The names and the behaviour are those of upstream's module, so that existing services run unchanged.  Additions:
`SecureGRPCServiceClient`, `Stop` of the clients, and `codes` for retrying only after some failures.

Everything here is thread-safe; calls block.  gRPC must not be used in a process that forks afterwards.
"""

from __future__ import annotations

import abc
import datetime
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent import futures
from typing import Any, TypeVar

import grpc
from absl import flags, logging

from fleetspeak import rpc
from fleetspeak.pb import admin, common

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "fleetspeak_message_listen_address",
    "",
    "The address on which to listen for messages that the Fleetspeak server forwards to this service.",
)
flags.DEFINE_string("fleetspeak_server", "", "The address of the admin API of the Fleetspeak server.")

DEFAULT_TIMEOUT = datetime.timedelta(seconds=30)

KEEP_ALIVE_INTERVAL = 5.0
KEEP_ALIVE_TIMEOUT = 1.0
"""Seconds; the traffic keeps proxies and firewalls from forgetting the connection."""

FIRST_PAUSE = datetime.timedelta(seconds=1)

TRANSIENT_CODES = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
)
"""What another try can help against; pass it as `codes`."""

Callback = Callable[[common.Message, grpc.ServicerContext], object]
_T = TypeVar("_T")


class InvalidArgument(Exception):
    """An argument is not of the type that is needed."""


class NotConfigured(Exception):
    """An address that this needs was given neither as an argument nor as a flag."""


def RetryLoop(
    func: Callable[[datetime.timedelta], _T],
    timeout: datetime.timedelta | None = None,
    single_try_timeout: datetime.timedelta | None = None,
    codes: Collection[grpc.StatusCode] | None = None,
) -> _T:
    """Call `func` until it does not raise grpc.RpcError, pausing 1 s, 2 s, 4 s, ... in between.

    @param func: is given the time that it may take.
    @param timeout: for all tries together; 30 s by default.
    @param single_try_timeout: for each try; as `timeout` by default.
    @param codes: retry only after these status codes; by default after any.
    @raise grpc.RpcError: the last one, when the next pause would not fit into the time that is left.
    """
    timeout = DEFAULT_TIMEOUT if timeout is None else timeout
    single_try_timeout = timeout if single_try_timeout is None else single_try_timeout
    deadline = datetime.datetime.now() + timeout
    limit, pause = single_try_timeout, FIRST_PAUSE
    while True:
        try:
            return func(limit)
        except grpc.RpcError as error:
            if codes is not None and _code(error) not in codes:
                raise
            if datetime.datetime.now() + pause > deadline:
                raise
        time.sleep(pause.total_seconds())
        pause *= 2
        left = max(deadline - datetime.datetime.now(), datetime.timedelta(0))
        limit = min(left, single_try_timeout)


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    code = getattr(error, "code", None)
    return code() if callable(code) else None


class Servicer(rpc.grpcservice.ProcessorServicer):
    """Takes messages from the Fleetspeak server and gives those for one service to a callback."""

    def __init__(self, process_callback: Callback, service_name: str, **kwargs: Any) -> None:
        """`process_callback` is called with the message and the call's context; what it raises makes the server
        try again."""
        super().__init__(**kwargs)
        self._process_callback = process_callback
        self._service_name = service_name

    def Process(self, request: common.Message, context: grpc.ServicerContext) -> common.EmptyMessage:
        """One message.  The same one may come more than once."""
        if not isinstance(request, common.Message):
            context.set_code(grpc.StatusCode.UNKNOWN)
            context.set_details(f"expected a fleetspeak.Message, got {type(request).__name__}")
        elif request.destination.client_id:
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            context.set_details("the message is addressed to a client")
        elif request.destination.service_name != self._service_name:
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            context.set_details(
                f"the message is addressed to service {request.destination.service_name!r}, "
                f"this is {self._service_name!r}"
            )
        else:
            self._process_callback(request, context)
        return common.EmptyMessage()


class OutgoingConnection:
    """The way to the Fleetspeak server: its admin API, with retries, kept alive by a thread."""

    def __init__(
        self,
        channel: grpc.Channel,
        service_name: str,
        stub: Any = None,
        codes: Collection[grpc.StatusCode] | None = None,
    ) -> None:
        """
        @param service_name: the service that messages without a source come from.
        @param stub: used instead of a stub over `channel`.
        @param codes: retry only after these status codes; by default after any.
        """
        self._service_name = service_name
        self._stub: rpc.admin.AdminStub = rpc.admin.AdminStub(channel) if stub is None else stub
        self._codes = codes
        self._shut_down = threading.Event()
        self._keep_alive = threading.Thread(target=self._keep_alive_loop, name="fleetspeak-keep-alive", daemon=True)
        self._keep_alive.start()

    def InsertMessage(
        self,
        message: common.Message,
        timeout: datetime.timedelta | None = None,
        single_try_timeout: datetime.timedelta | None = None,
    ) -> None:
        """Send a message.  Source and message id are set in `message` where they are missing.

        Repeats carry the same message id, so that the server stores the message once.
        """
        if not isinstance(message, common.Message):
            raise InvalidArgument(f"expected a fleetspeak.Message, got {type(message).__name__}")
        if not message.HasField("source"):
            message.source.service_name = self._service_name
        if not message.message_id:
            message.message_id = os.urandom(32)
        self._retry(self._stub.InsertMessage, message, timeout, single_try_timeout)

    def DeletePendingMessages(
        self,
        request: admin.DeletePendingMessagesRequest,
        timeout: datetime.timedelta | None = None,
        single_try_timeout: datetime.timedelta | None = None,
    ) -> None:
        """Delete what waits for some clients."""
        if not isinstance(request, admin.DeletePendingMessagesRequest):
            raise TypeError(f"expected a DeletePendingMessagesRequest, got {type(request).__name__}")
        self._retry(self._stub.DeletePendingMessages, request, timeout, single_try_timeout)

    def GetPendingMessages(
        self,
        request: admin.GetPendingMessagesRequest,
        timeout: datetime.timedelta | None = None,
        single_try_timeout: datetime.timedelta | None = None,
    ) -> admin.GetPendingMessagesResponse:
        """What waits for some clients."""
        return self._retry(self._stub.GetPendingMessages, request, timeout, single_try_timeout)

    def GetPendingMessageCount(
        self,
        request: admin.GetPendingMessageCountRequest,
        timeout: datetime.timedelta | None = None,
        single_try_timeout: datetime.timedelta | None = None,
    ) -> admin.GetPendingMessageCountResponse:
        """How much waits for some clients."""
        return self._retry(self._stub.GetPendingMessageCount, request, timeout, single_try_timeout)

    def ListClients(
        self,
        request: admin.ListClientsRequest,
        timeout: datetime.timedelta | None = None,
        single_try_timeout: datetime.timedelta | None = None,
    ) -> admin.ListClientsResponse:
        """The clients that the server knows."""
        return self._retry(self._stub.ListClients, request, timeout, single_try_timeout)

    def FetchClientResourceUsageRecords(
        self,
        request: admin.FetchClientResourceUsageRecordsRequest,
        timeout: datetime.timedelta | None = None,
        single_try_timeout: datetime.timedelta | None = None,
    ) -> admin.FetchClientResourceUsageRecordsResponse:
        """What a client reported of its use of resources."""
        return self._retry(self._stub.FetchClientResourceUsageRecords, request, timeout, single_try_timeout)

    def Shutdown(self) -> None:
        """End the thread that keeps the connection alive."""
        self._shut_down.set()
        self._keep_alive.join()

    def _retry(
        self,
        method: Callable[..., _T],
        request: object,
        timeout: datetime.timedelta | None,
        single_try_timeout: datetime.timedelta | None,
    ) -> _T:
        return RetryLoop(
            lambda limit: method(request, timeout=limit.total_seconds()), timeout, single_try_timeout, self._codes
        )

    def _keep_alive_loop(self) -> None:
        while not self._shut_down.wait(KEEP_ALIVE_INTERVAL):
            try:
                self._stub.KeepAlive(common.EmptyMessage(), timeout=KEEP_ALIVE_TIMEOUT)
            except grpc.RpcError as error:
                logging.warning("KeepAlive of the Fleetspeak server failed: %s", error)


class ServiceClient(abc.ABC):
    """What a service program needs of Fleetspeak."""

    @abc.abstractmethod
    def __init__(self, service_name: str) -> None:
        """@param service_name: the service that this program is."""

    @abc.abstractmethod
    def Listen(self, callback: Callback) -> None:
        """Begin to give each message for the service to `callback`, in threads of its own."""


def _flag(name: str) -> str | None:
    """The value of a flag; None if it is empty.  Its default if this program does not parse absl's flags."""
    return FLAGS[name].value or None


class InsecureGRPCServiceClient(ServiceClient):
    """A service client over plaintext gRPC: for one machine, or a network that is trusted."""

    def __init__(
        self,
        service_name: str,
        fleetspeak_message_listen_address: str | None = None,
        fleetspeak_server: str | None = None,
        threadpool_size: int = 5,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        @param fleetspeak_message_listen_address: where to listen for messages; None: as the flag says.
        @param fleetspeak_server: the admin API of the server; None: as the flag says.
        @param threadpool_size: how many messages are processed at a time.
        @param options: gRPC options of the listening server.
        @raise NotConfigured: there is neither address.
        """
        if fleetspeak_message_listen_address is None:
            fleetspeak_message_listen_address = _flag("fleetspeak_message_listen_address")
        if fleetspeak_server is None:
            fleetspeak_server = _flag("fleetspeak_server")
        if fleetspeak_message_listen_address is None and fleetspeak_server is None:
            raise NotConfigured(
                "at least one of the arguments (fleetspeak_message_listen_address, fleetspeak_server) "
                "or of the flags of these names has to be given"
            )
        self._service_name = service_name
        self._listen_address = fleetspeak_message_listen_address
        self._threadpool_size = threadpool_size
        self._options = tuple((options or {}).items())
        self._server: grpc.Server | None = None
        self._channel: grpc.Channel | None = None
        self.listen_port: int | None = None
        """The port, once it listens; of use where the address leaves it to the kernel."""
        self.outgoing: OutgoingConnection | None = None
        if fleetspeak_server is not None:
            self._channel = self._connect(fleetspeak_server)
            self.outgoing = OutgoingConnection(self._channel, service_name)

    def Send(self, message: common.Message) -> None:
        """Deprecated: use ``outgoing.InsertMessage``."""
        if self.outgoing is None:
            raise NotConfigured("Send address not provided.")
        self.outgoing.InsertMessage(message)

    def Listen(self, callback: Callback) -> None:
        """Begin to listen, and return."""
        if self._listen_address is None:
            raise NotConfigured("Listen address not provided.")
        self._server = grpc.server(futures.ThreadPoolExecutor(self._threadpool_size), options=self._options)
        self.listen_port = self._bind(self._server, self._listen_address)
        rpc.grpcservice.add_ProcessorServicer_to_server(Servicer(callback, self._service_name), self._server)
        self._server.start()

    def Stop(self, grace: float | None = None) -> None:
        """Stop listening, give calls that run `grace` seconds to end, and close the way to the server."""
        if self._server is not None:
            self._server.stop(grace).wait()
            self._server = None
        if self.outgoing is not None:
            self.outgoing.Shutdown()
        if self._channel is not None:
            self._channel.close()

    def _connect(self, address: str) -> grpc.Channel:
        return grpc.insecure_channel(address)

    def _bind(self, server: grpc.Server, address: str) -> int:
        return server.add_insecure_port(address)


class SecureGRPCServiceClient(InsecureGRPCServiceClient):
    """The same over TLS: with the credentials of both directions, as grpc makes them."""

    def __init__(
        self,
        service_name: str,
        fleetspeak_message_listen_address: str | None = None,
        fleetspeak_server: str | None = None,
        threadpool_size: int = 5,
        options: Mapping[str, Any] | None = None,
        server_credentials: grpc.ServerCredentials | None = None,
        channel_credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """
        @param server_credentials: for listening (`grpc.ssl_server_credentials`).
        @param channel_credentials: towards the admin API (`grpc.ssl_channel_credentials`).
        """
        self._server_credentials = server_credentials
        self._channel_credentials = channel_credentials
        super().__init__(service_name, fleetspeak_message_listen_address, fleetspeak_server, threadpool_size, options)

    def _connect(self, address: str) -> grpc.Channel:
        if self._channel_credentials is None:
            raise NotConfigured("channel_credentials not provided.")
        return grpc.secure_channel(address, self._channel_credentials)

    def _bind(self, server: grpc.Server, address: str) -> int:
        if self._server_credentials is None:
            raise NotConfigured("server_credentials not provided.")
        return server.add_secure_port(address, self._server_credentials)
