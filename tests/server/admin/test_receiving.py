"""RPCs with streamed requests, beside the reactor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from fleetspeak import rpc
from fleetspeak.errors import InvalidRecord
from fleetspeak.pb import operator
from fleetspeak.records import AuditFilter
from fleetspeak.server.admin import calls
from fleetspeak.server.admin.served import Served
from fleetspeak.server.admin.server import MAX_UPLOADS, AdminServer
from tests.server.admin.case import OPERATOR, AdminCase


class Sizes:
    """Carries UploadFile out by adding up."""

    def __init__(self) -> None:
        self.size = 0
        self.open = 0
        self.hanging: Deferred[None] | None = None

    async def upload_file(self) -> Sizes:
        self.open += 1
        return self

    async def take(self, request: operator.UploadFileRequest) -> None:
        if request.data == b"bad":
            raise InvalidRecord("this is bad")
        if self.hanging is not None:
            await self.hanging
        self.size += len(request.data)

    async def finish(self) -> operator.FileEntry:
        return operator.FileEntry(size=self.size)

    def close(self) -> None:
        self.open -= 1


class ReceivingTests(AdminCase):
    async def setUp(self) -> None:
        await super().setUp()
        self.sizes = Sizes()
        self.other = AdminServer([Served(OPERATOR, [self.sizes])], "127.0.0.1", 0, reactor)
        self.other.start()
        self.addCleanup(self.other.stop)
        channel = grpc.insecure_channel(self.other.address)
        self.addCleanup(deferToThread, channel.close)
        self.only_uploads: Any = rpc.operator.OperatorStub(channel)
        self.upload_file = self.only_uploads.UploadFile
        self.gate = threading.Event()
        self.addCleanup(self.gate.set)

    def requests(self, *parts: bytes, wait: bool = False) -> Iterator[operator.UploadFileRequest]:
        for part in parts:
            yield operator.UploadFileRequest(data=part)
        if wait:
            self.gate.wait(60)

    async def refused(self, requests: Iterator[operator.UploadFileRequest]) -> Any:
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(self.upload_file, requests, timeout=30)
        await self.when(lambda: self.sizes.open == 0)
        await self.when(lambda: self.other._calls._uploads._value == MAX_UPLOADS)  # type: ignore[attr-defined]
        return caught.exception

    async def test_all_requests_are_taken_in_order(self) -> None:
        entry = await deferToThread(self.upload_file, self.requests(b"ab", b"", b"cde"), timeout=30)
        self.assertEqual(entry.size, 5)
        await self.when(lambda: self.sizes.open == 0)

    async def test_what_is_wrong_with_one_ends_the_call(self) -> None:
        error = await self.refused(self.requests(b"ab", b"bad", wait=True))
        self.assertEqual((error.code().name, error.details()), ("INVALID_ARGUMENT", "this is bad"))

    async def test_a_caller_that_says_nothing_is_sent_away(self) -> None:
        self.patch(calls, "REQUEST_LIMIT", 0.2)
        error = await self.refused(self.requests(b"ab", wait=True))
        self.assertEqual(error.code().name, "CANCELLED")

    async def test_a_caller_that_goes_away(self) -> None:
        call = self.upload_file.future(self.requests(b"ab", wait=True))
        await self.when(lambda: self.sizes.size == 2)
        call.cancel()
        await self.when(lambda: self.sizes.open == 0)

    async def test_a_caller_that_goes_away_cancels_what_is_under_way(self) -> None:
        cancelled: list[object] = []
        self.sizes.hanging = Deferred(cancelled.append)
        call = self.upload_file.future(self.requests(b"ab", wait=True))
        await self.when(lambda: self.sizes.open == 1)
        call.cancel()
        await self.when(lambda: self.sizes.open == 0)
        self.assertEqual(self.sizes.size, 0)

    async def test_only_so_many_at_a_time(self) -> None:
        calls = [self.upload_file.future(self.requests(b"a", wait=True)) for _ in range(MAX_UPLOADS)]
        await self.when(lambda: self.sizes.size == MAX_UPLOADS)
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(self.upload_file, self.requests(b"a"), timeout=30)
        self.assertEqual(caught.exception.code().name, "RESOURCE_EXHAUSTED")  # type: ignore[attr-defined]
        self.gate.set()
        self.assertEqual(len(await deferToThread(lambda: [call.result(30) for call in calls])), MAX_UPLOADS)

    async def test_each_is_in_the_audit_trail(self) -> None:
        """Its entry has what the first request says; it is there while the others come, and gets the outcome."""
        audited = AdminServer([Served(OPERATOR, [self.sizes])], "127.0.0.1", 0, reactor, trail=self.trail)
        audited.start()
        self.addCleanup(audited.stop)
        channel = grpc.insecure_channel(audited.address)
        self.addCleanup(deferToThread, channel.close)
        upload: Any = rpc.operator.OperatorStub(channel).UploadFile

        def requests(*parts: bytes, wait: bool = False) -> Iterator[operator.UploadFileRequest]:
            yield operator.UploadFileRequest(head=operator.UploadFileRequest.Head(service_name="S", file_name="n"))
            yield from self.requests(*parts, wait=wait)

        call = upload.future(requests(b"ab", wait=True))
        await self.when(lambda: self.sizes.size == 2)
        [entry] = await self.store.audit_entries(AuditFilter(), 10)
        self.assertEqual((entry.call.request, entry.outcome), ("head.service_name='S', head.file_name='n'", ""))
        self.gate.set()
        await deferToThread(call.result, 30)
        with self.assertRaises(grpc.RpcError):
            await deferToThread(upload, requests(b"bad"), timeout=30)
        await self.when(lambda: self.sizes.open == 0)
        await self.trail.settled()
        entries = await self.store.audit_entries(AuditFilter(), 10)
        self.assertEqual(
            [(entry.outcome, entry.detail) for entry in entries], [("OK", ""), ("INVALID_ARGUMENT", "this is bad")]
        )

    async def test_what_nothing_carries_out_is_unimplemented(self) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            await deferToThread(self.only_uploads.ListFiles, operator.ListFilesRequest(), timeout=30)
        self.assertEqual(caught.exception.code().name, "UNIMPLEMENTED")  # type: ignore[attr-defined]
