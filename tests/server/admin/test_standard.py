"""Health and reflection, with the stubs that everybody has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fleetspeak.config.adminaccess import AdminAccess
from fleetspeak.core.adminaccess import Known, Role, token_hash
from fleetspeak.pb import common
from fleetspeak.server.admin import server as module
from fleetspeak.server.admin import standard
from fleetspeak.server.admin.server import AdminServer
from tests.server.admin.case import AdminCase

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
TOKEN = (("authorization", "Bearer token"),)


class HealthTests(AdminCase):
    async def setUp(self) -> None:
        await super().setUp()
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    async def status(self, service: str = "") -> Any:
        reply = await deferToThread(self.health.Check, health_pb2.HealthCheckRequest(service=service), timeout=30)
        return reply.status

    async def test_before_while_and_after(self) -> None:
        names = ("", "fleetspeak.server.Admin", "fleetspeak.operator.Operator")
        self.assertEqual([await self.status(name) for name in names], [NOT_SERVING] * 3)
        self.server.serving()
        self.assertEqual([await self.status(name) for name in names], [SERVING] * 3)
        self.server.draining()
        self.assertEqual([await self.status(name) for name in names], [NOT_SERVING] * 3)

    async def test_a_service_that_is_not_here(self) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            await self.status("elsewhere")
        self.assertEqual(caught.exception.code().name, "NOT_FOUND")  # type: ignore[attr-defined]

    async def test_watchers_are_told_and_hold_no_thread(self) -> None:
        watches = [self.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(module.THREADS + 8)]
        try:
            for watch in watches:
                self.assertEqual((await deferToThread(next, watch)).status, NOT_SERVING)
            await self.call("KeepAlive", common.EmptyMessage())
            self.server.serving()
            for watch in watches:
                self.assertEqual((await deferToThread(next, watch)).status, SERVING)
        finally:
            for watch in watches:
                watch.cancel()

    async def test_only_so_many_watch(self) -> None:
        self.patch(standard, "MAX_WATCHERS", 2)
        watches = [self.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            await deferToThread(next, watch)
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(next, self.health.Watch(health_pb2.HealthCheckRequest()))
        self.assertEqual(caught.exception.code().name, "RESOURCE_EXHAUSTED")  # type: ignore[attr-defined]
        watches[0].cancel()
        assert self.server._health is not None
        watchers = self.server._health._watchers
        await self.when(lambda: len(watchers) == 1)
        third = self.health.Watch(health_pb2.HealthCheckRequest())
        await deferToThread(next, third)
        for watch in (third, watches[1]):
            watch.cancel()

    async def test_a_watcher_does_not_hold_up_the_stop(self) -> None:
        self.patch(module, "STOP_GRACE", 60.0)
        watch = self.health.Watch(health_pb2.HealthCheckRequest())
        await deferToThread(next, watch)
        await self.server.stop()
        with self.assertRaises(grpc.RpcError):
            await deferToThread(next, watch)

    async def test_questions_that_are_not_finished_hold_up_nobody_else(self) -> None:
        gate = threading.Event()
        self.addCleanup(gate.set)

        def never() -> Iterator[bytes]:
            gate.wait(60)
            yield from ()

        check = self.channel.stream_unary("/grpc.health.v1.Health/Check")
        calls = [check.future(never()) for _ in range(standard.HEALTH_THREADS - 1)]
        assert self.server._health is not None
        asking: Any = self.server._health._asking
        await self.when(lambda: asking._value == 0)
        with self.assertRaises(grpc.RpcError) as caught:
            await self.status()
        self.assertEqual(caught.exception.code().name, "RESOURCE_EXHAUSTED")  # type: ignore[attr-defined]
        await self.call("KeepAlive", common.EmptyMessage())
        for call in calls:
            call.cancel()
        await self.when(lambda: asking._value == standard.HEALTH_THREADS - 1)
        self.assertEqual(await self.status(), NOT_SERVING)


class ReflectionTests(AdminCase):
    async def ask(self, *requests: reflection_pb2.ServerReflectionRequest) -> list[Any]:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(self.channel)
        return await deferToThread(lambda: list(stub.ServerReflectionInfo(iter(requests), timeout=30)))

    async def test_services(self) -> None:
        [reply] = await self.ask(reflection_pb2.ServerReflectionRequest(list_services=""))
        self.assertEqual(
            {service.name for service in reply.list_services_response.service},
            {
                "fleetspeak.server.Admin",
                "fleetspeak.operator.Operator",
                "grpc.health.v1.Health",
                "grpc.reflection.v1alpha.ServerReflection",
            },
        )

    async def test_files(self) -> None:
        asked = [
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            for name in ("fleetspeak.server.Admin", "fleetspeak.operator.Operator", "grpc.health.v1.Health", "nothing")
        ]
        replies = await self.ask(*asked)
        for request, reply in zip(asked[:3], replies[:3], strict=True):
            files = [
                FileDescriptorProto.FromString(raw) for raw in reply.file_descriptor_response.file_descriptor_proto
            ]
            names = {f"{file.package}.{service.name}" for file in files for service in file.service}
            self.assertIn(request.file_containing_symbol, names)
        self.assertEqual(replies[3].error_response.error_code, grpc.StatusCode.NOT_FOUND.value[0])  # type: ignore[index]


class WhoTests(TestCase):
    """Health is for everybody, reflection for those who are known."""

    async def test_who_may_ask(self) -> None:
        access = AdminAccess(callers=(Known("v", Role.VIEWER, (), (token_hash("token"),)),))
        server = AdminServer([], "127.0.0.1", 0, reactor, access=access)
        server.start()
        self.addCleanup(server.stop)
        channel = grpc.insecure_channel(server.address)
        self.addCleanup(deferToThread, channel.close)
        health: Any = health_pb2_grpc.HealthStub(channel)
        await deferToThread(health.Check, health_pb2.HealthCheckRequest(), timeout=30)
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

        def ask(metadata: Any) -> list[Any]:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            return list(stub.ServerReflectionInfo(iter([request]), timeout=30, metadata=metadata))

        self.assertEqual(len(await deferToThread(ask, TOKEN)), 1)
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(ask, ())
        self.assertEqual(caught.exception.code().name, "UNAUTHENTICATED")  # type: ignore[attr-defined]
