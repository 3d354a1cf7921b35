"""A call of the admin API, in the thread that it holds: who is there, what does he want, is it done.

Requests are read only when the caller was let in, so that strangers cost neither a thread nor memory; every
handler is therefore one of streamed requests to grpc.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.message_factory import GetMessageClass

from fleetspeak.core.adminaccess import rpc_of
from fleetspeak.server.admin.access import Caller, Denied, Guard
from fleetspeak.server.admin.hop import Hop, abort, status_of
from fleetspeak.server.admin.operations import Refused
from fleetspeak.server.admin.patience import Patience
from fleetspeak.server.admin.served import Receiver
from fleetspeak.server.admin.trail import Begun, Trail
from fleetspeak.server.stats import NO_STATS, ServerStats

if TYPE_CHECKING:
    import grpc

MAX_STREAMS = 8
"""Most streamed replies at a time: each holds a thread for as long as its reader likes."""

MAX_UPLOADS = 4
"""Most calls with streamed requests at a time, for the same reason."""

REQUEST_LIMIT = 60.0
"""Seconds that a caller may take to send the next request, or to take the next reply."""

CANCELLED = "CANCELLED"
"""The status of a call whose caller has gone."""

Operation = Callable[..., Any]


class Calls:
    """Makes the handlers of RPCs."""

    def __init__(
        self, guard: Guard, trail: Trail | None, patience: Patience, reactor: Any, stats: ServerStats = NO_STATS
    ) -> None:
        """@param trail: None: nothing is written down."""
        self._stats = stats
        self._guard = guard
        self._trail = trail
        self._patience = patience
        self._reactor = reactor
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        self._uploads = threading.BoundedSemaphore(MAX_UPLOADS)

    def handler(self, method: MethodDescriptor, operation: Operation) -> grpc.RpcMethodHandler[Any, Any]:
        """What carries `operation` out for those who may."""
        import grpc

        write = GetMessageClass(method.output_type).SerializeToString
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(self._receiving(method, operation), None, write)
        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streamed(method, operation), None, write)
        return grpc.stream_unary_rpc_method_handler(self._unary(method, operation), None, write)

    def streaming(self, method: str) -> Callable[[grpc.ServicerContext], Any]:
        """For a service that is not ours: lets callers in, one of `MAX_STREAMS` at a time."""

        @contextmanager
        def admitted(context: grpc.ServicerContext) -> Iterator[None]:
            with self._ending(method, context):
                self._guard.admit(method, context)
                with _one_of(self._streams, MAX_STREAMS, "streamed replies"):
                    yield

        return admitted

    def _unary(self, method: MethodDescriptor, operation: Operation) -> Callable[..., ProtobufMessage]:
        name, read = _full_name(method), GetMessageClass(method.input_type).FromString
        rpc = rpc_of(name)
        trail = self._trail if rpc.changes else None
        takes_caller = "caller" in inspect.signature(operation).parameters

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> ProtobufMessage:
            with self._ending(name, context):
                caller = self._guard.admit(name, context)
                hop = Hop(context, self._reactor)
                request = self._request(name, requests, context, read, caller)
                reply: ProtobufMessage
                work = partial(operation, caller=caller) if takes_caller else operation
                if trail is None:
                    reply = hop.run(work, request)
                elif rpc.together:
                    reply = hop.run(trail.together, caller, name, work, request)
                else:
                    reply = hop.run(trail.follow, caller, name, work, request)
                return reply

        return call

    def _streamed(self, method: MethodDescriptor, operation: Operation) -> Callable[..., Iterator[ProtobufMessage]]:
        name, read = _full_name(method), GetMessageClass(method.input_type).FromString

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[ProtobufMessage]:
            with self._ending(name, context):
                caller = self._guard.admit(name, context)
                with _one_of(self._streams, MAX_STREAMS, "streamed replies"):
                    request = self._request(name, requests, context, read, caller)
                    hop, pages = Hop(context, self._reactor), operation(request)
                    while (page := hop.run(anext, pages, None)) is not None:
                        for reply in page:
                            with self._patience.waiting(context):
                                yield reply

        return call

    def _receiving(self, method: MethodDescriptor, operation: Operation) -> Callable[..., ProtobufMessage]:
        name, read = _full_name(method), GetMessageClass(method.input_type).FromString
        trail = self._trail if rpc_of(name).changes else None

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> ProtobufMessage:
            with self._ending(name, context):
                caller = self._guard.admit(name, context)
                with _one_of(self._uploads, MAX_UPLOADS, "calls like this"):
                    return self._receive(name, operation, map(_reader(read), requests), context, caller, trail)

        return call

    def _receive(
        self,
        name: str,
        operation: Operation,
        requests: Iterator[ProtobufMessage],
        context: grpc.ServicerContext,
        caller: Caller,
        trail: Trail | None,
    ) -> ProtobufMessage:
        receiver: Receiver | None = None
        begun: Begun | None = None
        error: BaseException | None = None
        hop = Hop(context, self._reactor)
        try:
            for request in hop.each(requests, REQUEST_LIMIT):
                if receiver is None:  # the first one says what it is about
                    if trail is not None:
                        begun = hop.run(trail.begin, caller, name, request)
                    receiver = hop.run(operation)
                hop.run(receiver.take, request)
            if receiver is None:
                receiver = hop.run(operation)
            reply: ProtobufMessage = hop.run(receiver.finish)
            return reply
        except BaseException as raised:
            error = raised
            raise
        finally:
            if receiver is not None:
                self._reactor.callFromThread(receiver.close)
            if begun is not None:
                self._reactor.callFromThread(begun.end, error)

    def _request(
        self,
        name: str,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        read: Callable[[bytes], ProtobufMessage],
        caller: Caller,
    ) -> ProtobufMessage:
        """The one request of a call."""
        with self._patience.waiting(context):
            raw = next(requests, None)
        if raw is None:
            raise Refused("INVALID_ARGUMENT", "the call has no request")
        request = _reader(read)(raw)
        self._guard.check_request(name, request, caller)
        return request

    @contextmanager
    def _ending(self, name: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Let what is raised end the call with the status that says so, and count it."""
        import grpc

        began, code = time.monotonic(), "OK"
        try:
            yield
        except (GeneratorExit, grpc.RpcError):  # the caller has gone
            code = CANCELLED
            raise
        except Exception as error:
            code, _ = status_of(error)
            if isinstance(error, Denied) and self._trail is not None:
                self._reactor.callFromThread(self._trail.denied, name, error)
            abort(context, name, error)
        finally:
            if self._stats.active:
                seconds = time.monotonic() - began
                self._reactor.callFromThread(self._stats.admin_called, _without_package(name), code, seconds)


def _full_name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


def _without_package(method: str) -> str:
    service, _, rpc = method.partition("/")
    return f"{service.rpartition('.')[2]}/{rpc}"


def _reader(read: Callable[[bytes], ProtobufMessage]) -> Callable[[bytes], ProtobufMessage]:
    def parsed(raw: bytes) -> ProtobufMessage:
        try:
            return read(raw)
        except DecodeError as error:
            raise Refused("INVALID_ARGUMENT", f"the request is none of this method: {error}") from None

    return parsed


@contextmanager
def _one_of(places: threading.BoundedSemaphore, number: int, what: str) -> Iterator[None]:
    if not places.acquire(blocking=False):
        raise Refused("RESOURCE_EXHAUSTED", f"{number} {what} are running")
    try:
        yield
    finally:
        places.release()
