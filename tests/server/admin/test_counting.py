"""Calls of the admin API are counted (`IServerStats.admin_called`)."""

from __future__ import annotations

from threading import current_thread

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from fleetspeak.pb import admin, common
from tests.programs import PATIENCE
from tests.server.admin.case import AdminCase, message


class CountingTests(AdminCase):
    async def counted_calls(self, number: int) -> list[tuple[str, str]]:
        """What was told, once it is so many; a call is counted after it was answered."""
        for _ in range(int(PATIENCE / 0.02)):
            told = self.counted.calls("admin_called")
            if len(told) >= number:
                return [(method, code) for method, code, _ in told]
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]
        raise AssertionError(f"only {self.counted.calls('admin_called')}")

    async def test_each_call_is_told_with_method_code_and_time(self) -> None:
        await self.call("InsertMessage", message())
        self.assertEqual(await self.counted_calls(1), [("Admin/InsertMessage", "OK")])
        ((_, _, seconds),) = self.counted.calls("admin_called")
        self.assertGreaterEqual(seconds, 0)

    async def test_one_that_is_refused_is_told_with_its_code(self) -> None:
        bad = admin.GetMessageStatusRequest(message_id=b"short")
        error = await self.assertFailure(self.call("GetMessageStatus", bad), grpc.RpcError)
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(await self.counted_calls(1), [("Admin/GetMessageStatus", "INVALID_ARGUMENT")])

    async def test_streamed_replies_are_one_call(self) -> None:
        replies = await deferToThread(lambda: list(self.stub.StreamClientIds(admin.StreamClientIdsRequest())))
        self.assertEqual(len(replies), 2)
        self.assertEqual(await self.counted_calls(1), [("Admin/StreamClientIds", "OK")])

    async def test_in_the_reactors_thread(self) -> None:
        here, there = current_thread(), Deferred[object]()
        self.counted.admin_called = lambda *_: there.callback(current_thread())  # type: ignore[method-assign]
        await self.call("KeepAlive", common.EmptyMessage())
        self.assertIs(await there, here)
