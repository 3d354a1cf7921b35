"""The gRPC server of the admin API: listens, reads requests, hops into the reactor, and writes replies.

It has threads of its own; one is held by each call for as long as that lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from fleetspeak.config.adminaccess import AdminAccess
from fleetspeak.server.admin.access import Guard
from fleetspeak.server.admin.accessfile import AccessFile
from fleetspeak.server.admin.calls import MAX_STREAMS, MAX_UPLOADS, REQUEST_LIMIT, Calls
from fleetspeak.server.admin.credentials import Certificates
from fleetspeak.server.admin.patience import Patience
from fleetspeak.server.admin.ports import Ports
from fleetspeak.server.admin.served import Served
from fleetspeak.server.admin.standard import REFLECTION, Health, reflection
from fleetspeak.server.admin.trail import Trail
from fleetspeak.server.grpcimport import ensure_grpc
from fleetspeak.server.stats import NO_STATS, ServerStats

if TYPE_CHECKING:
    import grpc

__all__ = ["MAX_STREAMS", "MAX_UPLOADS", "AdminServer"]

THREADS = 32

MAX_CALLS = 128
"""Most calls at a time, those that wait for a thread included: each may hold a request of `MAX_REQUEST` bytes."""

MAX_REQUEST = 4 * 1024 * 1024

MAX_CONNECTIONS = 512
"""Most connections to a port at a time; each costs some ten KiB before it says who it is."""

STOP_GRACE = 3.0
"""Seconds that running calls are left when the server stops."""

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a second server on this port must fail, and not share it
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", 20_000),
    # A peer that is gone without a word is noticed, and its calls end.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

log = Logger()


class AdminServer:
    """Serves gRPC services on one address, and on those that the access file adds.

    Without an access file it is as upstream's: in plaintext, and everybody may do everything.  An RPC that nothing
    carries out is answered UNIMPLEMENTED.
    """

    def __init__(
        self,
        services: Sequence[Served],
        host: str,
        port: int,
        reactor: Any,
        *,
        access: AdminAccess | None = None,
        trail: Trail | None = None,
        stats: ServerStats = NO_STATS,
    ) -> None:
        """An empty `host` means all addresses; port 0 lets the kernel pick one.

        @param access: who may do what; None: everybody everything.
        @param trail: where calls that change something are written down; None: nowhere.
        """
        self._services = services
        self._address = host, port
        self._access = access
        self._trail = trail
        self._reactor = reactor
        self._guard = Guard(access, reactor.seconds)
        self._certificates = None if access is None or access.tls is None else Certificates(access.tls)
        self._patience = Patience(REQUEST_LIMIT, reactor)
        self._calls = Calls(self._guard, trail, self._patience, reactor, stats)
        self._health: Health | None = None
        self._server: grpc.Server | None = None
        self._file: AccessFile | None = None
        self.address = ""
        """``host:port`` once it listens."""
        self.addresses: list[str] = []
        """That one, and all others."""

    def start(self) -> None:
        """Listen.  Raises ConfigError."""
        ensure_grpc()
        import grpc

        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="admin"), maximum_concurrent_rpcs=MAX_CALLS, options=OPTIONS
        )
        names = [served.descriptor.full_name for served in self._services]
        self._health = Health(names, self._patience)
        server.add_generic_rpc_handlers(
            (
                *map(self._handlers, self._services),
                self._health.handlers(),
                reflection(names, self._calls.streaming(REFLECTION), self._patience),
            )
        )
        ports = Ports(server, self._certificates)
        self.address = ports.open(self._address, self._access)
        server.start()
        self._server = server
        self._patience.start()
        self.addresses = [where for where, _ in ports.opened]
        log.info("admin API listens on {address}", address=self.address)
        for where, how in ports.opened:
            log.info("admin API at {address}: {how}", address=where, how=how)
        if self._access is None:
            log.warn(
                "admin API: everybody who reaches {address} may do everything, as on the Go server; "
                "--admin-access FILE says who may do what",
                address=self.address,
            )
        else:
            self._file = AccessFile(self._access, self._use, self._reactor)
            self._file.start()

    def serving(self) -> None:
        """Say that the whole server is started; to those who ask the health service."""
        if self._health is not None:
            self._health.serving()

    def draining(self) -> None:
        """Say that the server is about to stop."""
        if self._health is not None:
            self._health.draining()

    async def stop(self) -> None:
        """Take no more calls, and give running ones `STOP_GRACE` seconds; then they end as cancelled."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._file is not None:
            self._file.stop()
        if self._health is not None:
            self._health.close()
        stopped = server.stop(STOP_GRACE)
        await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), stopped.wait)
        self._patience.stop()
        if self._trail is not None:
            await self._trail.stop()

    def _use(self, access: AdminAccess) -> None:
        """The access file has changed."""
        self._guard.use(access)
        if self._certificates is not None and access.tls is not None:
            self._certificates.use(access.tls)

    def _handlers(self, served: Served) -> grpc.GenericRpcHandler:
        import grpc

        operations = [(method, served.operation(method)) for method in served.descriptor.methods]
        handlers = {
            method.name: self._calls.handler(method, operation)
            for method, operation in operations
            if operation is not None
        }
        return grpc.method_handlers_generic_handler(served.descriptor.full_name, handlers)
