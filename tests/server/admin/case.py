"""A server of the admin API on the memory store, and a caller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fleetspeak import rpc
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IFileStore
from fleetspeak.pb import admin, common, operator
from fleetspeak.records import ClientData, Label
from fleetspeak.server.admin.filestorage import FileStorage
from fleetspeak.server.admin.operations import AdminOperations
from fleetspeak.server.admin.operator.all import make_operations
from fleetspeak.server.admin.operator.audit import AuditOperations
from fleetspeak.server.admin.served import Served
from fleetspeak.server.admin.server import AdminServer
from fleetspeak.server.admin.trail import Trail
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.inserts import Inserter
from fleetspeak.server.notify.local import LocalNotifier
from fleetspeak.server.services.backlog import Backlog
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.server.stats import ServerStats
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.serverside import RecordingServerStats

ADMIN = admin.DESCRIPTOR.services_by_name["Admin"]
OPERATOR = operator.DESCRIPTOR.services_by_name["Operator"]

NOW = 100_000 * 10**9
C1, C2 = ClientId(b"\0\0\0\0\0\0\0\1"), ClientId(b"\0\0\0\0\0\0\0\2")
M1, M2 = MessageId(b"1" * 32), MessageId(b"2" * 32)


def message(message_id: bytes = b"", client_id: bytes = C1, **fields: Any) -> common.Message:
    made = common.Message(message_id=message_id, message_type="Greeting", **fields)
    made.source.service_name = "greeter"
    made.destination.client_id, made.destination.service_name = client_id, "hello"
    made.data.value = b"payload"
    return made


class AdminCase(TestCase):
    async def setUp(self) -> None:
        self.time = NOW
        self.seconds = 0.0
        self.seconds_were_read = threading.Event()
        self.store = MemoryStore(now_ns=lambda: self.time, uniform=lambda: 0.0)
        await self.store.open()
        for client_id in (C1, C2):
            await self.store.add_client(client_id, ClientData(key=b"k", labels=frozenset({Label("client", "linux")})))
        self.dispatcher = Dispatcher()
        self.cache = ClientCache(self.store.client_data, reactor.seconds)  # type: ignore[attr-defined]
        manager = ServiceManager(reactor, lambda: self.time)
        inserter = Inserter(
            self.store,
            self.cache.lookup,
            self.dispatcher.dispatch,
            LocalNotifier(self.dispatcher, reactor),
            manager,
            Backlog(self.store, manager, reactor, lambda: self.time),
            lambda: self.time,
        )
        self.changes: list[None] = []

        def changed() -> None:
            self.changes.append(None)

        self.file_stores = self.make_file_stores()
        files = FileStorage(self.store, self.file_stores, deferToThread)
        self.operations = AdminOperations(self.store, inserter, self.cache.invalidate, changed, files)
        self.looks: list[str] = []
        """What this server was told to look at."""
        for_operators = make_operations(
            self.store,
            files,
            lambda: self.time,
            self.read_seconds,
            broadcasts_changed=changed,
            client_changed=self.cache.invalidate,
            enrolment_changed=lambda: self.looks.append("enrolment"),
            messages_due=lambda: self.looks.append("messages"),
        )
        self.trail = Trail(self.store, reactor)
        audit = AuditOperations(self.store, self.trail.settled)
        self.services = [Served(ADMIN, [self.operations]), Served(OPERATOR, [*for_operators, audit])]
        self.counted = RecordingServerStats()
        stats = ServerStats([self.counted], reactor)
        self.server = AdminServer(self.services, "127.0.0.1", 0, reactor, trail=self.trail, stats=stats)
        self.server.start()
        self.channel = grpc.insecure_channel(self.server.address)
        self.stub = rpc.admin.AdminStub(self.channel)
        self.operator = rpc.operator.OperatorStub(self.channel)

    def read_seconds(self) -> float:
        """The steady clock of the operations."""
        self.seconds_were_read.set()
        return self.seconds

    def make_file_stores(self) -> dict[str, IFileStore]:
        """By service, for those whose files are not in the store."""
        return {}

    async def tearDown(self) -> None:
        await deferToThread(self.channel.close)
        await self.server.stop()

    def call(self, method: str, request: Any, timeout: float = 10.0) -> Deferred[Any]:
        return deferToThread(self.method(method), request, timeout=timeout)

    def method(self, name: str) -> Any:
        """Of the operator's service, if it is written ``operator.Name``."""
        service, _, plain = name.rpartition(".")
        return getattr(self.operator if service else self.stub, plain)

    def stream(self, method: str, request: Any) -> Deferred[list[Any]]:
        return deferToThread(lambda: list(self.method(method)(request, timeout=10.0)))

    async def assert_refused(self, code: str, words: str, method: str, request: Any) -> None:
        try:
            await self.call(method, request)
        except grpc.RpcError as error:
            self.assertEqual((error.code().name, error.details()), (code, words))  # type: ignore[attr-defined]
        else:
            self.fail(f"{method} was not refused")

    async def when(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await task.deferLater(reactor, 0.01)  # type: ignore[arg-type]
        self.fail("in vain")
