"""The services that every gRPC server is expected to have: health, and reflection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fleetspeak.server.admin.patience import Patience

if TYPE_CHECKING:
    import grpc

HEALTH_THREADS = 16
"""Threads that answer questions about health, for which nobody needs to be known; one of them is always free to
refuse."""

MAX_WATCHERS = 64
"""Most callers at a time that are told of changes."""

REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class Health:
    """`grpc.health.v1.Health`: SERVING when the whole server is, and NOT_SERVING before and while it drains.

    Nobody needs to be known for it, so it has threads of its own: who does not finish his question holds up others
    who ask about health at most.
    """

    def __init__(self, services: Iterable[str], patience: Patience) -> None:
        """@param services: full names; the empty name stands for all together."""
        from grpc_health.v1 import health, health_pb2

        self._pb = health_pb2
        self._names = ["", *services]
        self._patience = patience
        self._servicer = health.HealthServicer()
        self._asking = threading.BoundedSemaphore(HEALTH_THREADS - 1)
        self._watchers: set[grpc.ServicerContext] = set()
        self._threads = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="admin-health")
        self._say(self._pb.HealthCheckResponse.NOT_SERVING)

    def serving(self) -> None:
        """Everything is started."""
        self._say(self._pb.HealthCheckResponse.SERVING)

    def draining(self) -> None:
        """The server is about to stop."""
        self._say(self._pb.HealthCheckResponse.NOT_SERVING)

    def close(self) -> None:
        """Send those away who watch: they were told, and would hold up the stop."""
        for context in list(self._watchers):
            context.cancel()
        self._threads.shutdown(wait=False)

    def _say(self, status: Any) -> None:
        for name in self._names:
            self._servicer.set(name, status)

    def handlers(self) -> grpc.GenericRpcHandler:
        """What answers."""
        import grpc

        read = self._pb.HealthCheckRequest.FromString
        write = self._pb.HealthCheckResponse.SerializeToString

        def check(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            return self._servicer.Check(self._request(requests, context), context)

        def watch(
            requests: Iterator[Any], context: grpc.ServicerContext, send_response_callback: Callable[[Any], None]
        ) -> None:
            request = self._request(requests, context)
            if len(self._watchers) >= MAX_WATCHERS:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} callers watch already")
            self._watchers.add(context)
            if context.add_callback(lambda: self._watchers.discard(context)):
                self._servicer.Watch(request, context, send_response_callback)

        # By these it knows whose threads they have, and that a watcher that waits has none.
        answers: dict[str, Any] = {"Check": check, "Watch": watch}
        for answer in answers.values():
            answer.experimental_thread_pool = self._threads
        answers["Watch"].experimental_non_blocking = True
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.stream_unary_rpc_method_handler(answers["Check"], read, write),
                "Watch": grpc.stream_stream_rpc_method_handler(answers["Watch"], read, write),
            },
        )

    def _request(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        import grpc

        if not self._asking.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many questions are not finished")
        try:
            with self._patience.waiting(context):
                return next(requests)
        except StopIteration:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a request is missing")
        finally:
            self._asking.release()


def reflection(
    services: Iterable[str], admit: Callable[[grpc.ServicerContext], Any], patience: Patience
) -> grpc.GenericRpcHandler:
    """`grpc.reflection.v1alpha.ServerReflection`: what there is to call, for tools without the .proto files.

    @param services: full names.
    @param admit: called with the context of each call; ends it if nobody may make it.
    """
    import grpc
    from grpc_reflection.v1alpha import reflection as library
    from grpc_reflection.v1alpha import reflection_pb2

    servicer = library.ReflectionServicer([*services, library.SERVICE_NAME, "grpc.health.v1.Health"])

    def info(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        with admit(context):
            yield from servicer.ServerReflectionInfo(_patiently(requests, context, patience), context)

    handler = grpc.stream_stream_rpc_method_handler(
        info,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(library.SERVICE_NAME, {"ServerReflectionInfo": handler})


def _patiently(requests: Iterator[Any], context: grpc.ServicerContext, patience: Patience) -> Iterator[Any]:
    while True:
        try:
            with patience.waiting(context):
                request = next(requests)
        except StopIteration:
            return
        yield request
