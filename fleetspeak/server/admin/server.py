"""The gRPC server of the admin API: listens, reads requests, hops into the reactor, and writes replies.

It has threads of its own; one is held by each call for as long as that lasts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.message_factory import GetMessageClass
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from fleetspeak.errors import ConfigError
from fleetspeak.server.admin.hop import Hop, abort
from fleetspeak.server.admin.operations import Refused
from fleetspeak.server.admin.served import Receiver, Served
from fleetspeak.server.grpcimport import ensure_grpc

if TYPE_CHECKING:
    import grpc

THREADS = 32
MAX_STREAMS = 8
"""Most streamed replies at a time: each holds a thread for as long as its reader likes."""

MAX_UPLOADS = 4
"""Most calls with streamed requests at a time, for the same reason."""

MAX_CALLS = 128
"""Most calls at a time, those that wait for a thread included: each may hold a request of `MAX_REQUEST` bytes."""

MAX_REQUEST = 4 * 1024 * 1024

STOP_GRACE = 3.0
"""Seconds that running calls are left when the server stops."""

REQUEST_LIMIT = 60.0
"""Seconds that the next one of streamed requests may take to come."""

log = Logger()


class AdminServer:
    """Serves gRPC services on one address, in plaintext and without authentication, as upstream does.

    An RPC that nothing carries out is answered UNIMPLEMENTED.
    """

    def __init__(self, services: Sequence[Served], host: str, port: int, reactor: Any) -> None:
        """An empty `host` means all addresses; port 0 lets the kernel pick one."""
        self._services = services
        self._host = host
        self._port = port
        self._reactor = reactor
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        self._uploads = threading.BoundedSemaphore(MAX_UPLOADS)
        self._server: grpc.Server | None = None
        self.address = ""
        """``host:port`` once it listens."""

    def start(self) -> None:
        """Listen.  Raises ConfigError."""
        ensure_grpc()
        import grpc

        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="admin"),
            maximum_concurrent_rpcs=MAX_CALLS,
            options=(
                ("grpc.max_receive_message_length", MAX_REQUEST),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second server on this port must fail, and not share it
            ),
        )
        server.add_generic_rpc_handlers(tuple(map(self._handlers, self._services)))
        host = f"[{self._host or '::'}]" if ":" in self._host or not self._host else self._host
        try:
            port = server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError as error:
            raise ConfigError(
                f"failed to initialize admin server: cannot listen on {host}:{self._port} "
                "(is the address one of this machine, and the port free?)"
            ) from error
        server.start()
        self._server = server
        self.address = f"{host}:{port}"
        log.info("admin API listens on {address}", address=self.address)

    async def stop(self) -> None:
        """Take no more calls, and give running ones `STOP_GRACE` seconds; then they end as cancelled."""
        server, self._server = self._server, None
        if server is not None:
            stopped = server.stop(STOP_GRACE)
            await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), stopped.wait)

    def _handlers(self, served: Served) -> grpc.GenericRpcHandler:
        import grpc

        operations = [(method, served.operation(method)) for method in served.descriptor.methods]
        handlers = {
            method.name: self._handler(method, operation) for method, operation in operations if operation is not None
        }
        return grpc.method_handlers_generic_handler(served.descriptor.full_name, handlers)

    def _handler(self, method: MethodDescriptor, operation: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
        import grpc

        read = GetMessageClass(method.input_type).FromString
        write = GetMessageClass(method.output_type).SerializeToString
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(self._receiving(method.name, operation), read, write)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streamed(method.name, operation), read, write)
        return grpc.unary_unary_rpc_method_handler(self._unary(method.name, operation), read, write)

    def _unary(self, name: str, operation: Callable[..., Any]) -> Callable[..., ProtobufMessage]:
        def call(request: ProtobufMessage, context: grpc.ServicerContext) -> ProtobufMessage:
            try:
                reply: ProtobufMessage = Hop(context, self._reactor).run(operation, request)
            except Exception as error:
                abort(context, name, error)
            return reply

        return call

    def _streamed(self, name: str, operation: Callable[..., Any]) -> Callable[..., Iterator[ProtobufMessage]]:
        def call(request: ProtobufMessage, context: grpc.ServicerContext) -> Iterator[ProtobufMessage]:
            if not self._streams.acquire(blocking=False):
                abort(context, name, Refused("RESOURCE_EXHAUSTED", f"{MAX_STREAMS} streamed replies are running"))
            try:
                hop, pages = Hop(context, self._reactor), operation(request)
                while (page := hop.run(anext, pages, None)) is not None:
                    yield from page
            except Exception as error:
                abort(context, name, error)
            finally:
                self._streams.release()

        return call

    def _receiving(self, name: str, operation: Callable[..., Any]) -> Callable[..., ProtobufMessage]:
        def call(requests: Iterator[ProtobufMessage], context: grpc.ServicerContext) -> ProtobufMessage:
            if not self._uploads.acquire(blocking=False):
                abort(context, name, Refused("RESOURCE_EXHAUSTED", f"{MAX_UPLOADS} calls like this are running"))
            receiver: Receiver | None = None
            try:
                hop = Hop(context, self._reactor)
                receiver = hop.run(operation)
                for request in hop.each(requests, REQUEST_LIMIT):
                    hop.run(receiver.take, request)
                reply: ProtobufMessage = hop.run(receiver.finish)
            except Exception as error:
                abort(context, name, error)
            finally:
                if receiver is not None:
                    self._reactor.callFromThread(receiver.close)
                self._uploads.release()
            return reply

        return call
