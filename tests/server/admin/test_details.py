"""Details of errors, as gRPC's own libraries read them."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from twisted.internet.defer import fail

from fleetspeak.errors import StoreError
from fleetspeak.pb import admin, common, operator
from fleetspeak.server.admin.details import KEY
from tests.server.admin.case import C1, AdminCase, message


class DetailsTests(AdminCase):
    async def details(self, method: str, request: Any) -> tuple[status_pb2.Status, list[Any]]:
        with self.assertRaises(grpc.RpcError) as caught:
            await self.call(method, request)
        error: Any = caught.exception
        trailers = dict(error.trailing_metadata())
        status = status_pb2.Status.FromString(trailers.get(KEY, b""))
        if status.message:
            self.assertEqual((status.code, status.message), (error.code().value[0], error.details()))
        return status, list(status.details)

    async def violation(self, method: str, request: Any) -> str:
        status, [detail] = await self.details(method, request)
        bad = error_details_pb2.BadRequest()
        self.assertTrue(detail.Unpack(bad))
        [violation] = bad.field_violations
        self.assertEqual(violation.description, status.message)
        return str(violation.field)

    async def test_the_field_to_blame(self) -> None:
        """Upstream's API as well as ours."""
        sourceless = message()
        sourceless.ClearField("source")
        large = message(client_id=C1)
        large.data.value = bytes(2 * 1024 * 1024)
        span = operator.TimeSpan()
        span.start.seconds = 1
        span.end.seconds = 0
        for field, method, request in (
            ("destination.service_name", "InsertMessage", common.Message()),
            ("source.service_name", "InsertMessage", sourceless),
            ("message_id", "InsertMessage", message(b"short")),
            ("destination.client_id", "InsertMessage", message(client_id=b"short")),
            ("data", "InsertMessage", large),
            ("message_id", "GetMessageStatus", admin.GetMessageStatusRequest(message_id=b"short")),
            ("client_ids[1]", "ListClients", admin.ListClientsRequest(client_ids=[C1, b"x"])),
            ("client_ids[0]", "DeletePendingMessages", admin.DeletePendingMessagesRequest(client_ids=[b"x"])),
            ("limit", "GetPendingMessages", admin.GetPendingMessagesRequest(offset=1)),
            ("client_id", "BlacklistClient", admin.BlacklistClientRequest()),
            ("client_id", "ListClientContacts", admin.ListClientContactsRequest(client_id=b"x")),
            ("broadcast", "CreateBroadcast", admin.CreateBroadcastRequest()),
            ("broadcast_ids[0]", "DisableBroadcasts", admin.DisableBroadcastsRequest(broadcast_ids=[b"x"])),
            ("service_name", "StoreFile", admin.StoreFileRequest()),
            ("file_name", "DeleteFile", admin.DeleteFileRequest(service_name="S")),
            ("page_token", "operator.ListClients", operator.ListClientsRequest(page_token="?")),
            ("filter.created", "operator.CountMessages", _count(span)),
            ("broadcast_ids[0]", "operator.PauseBroadcasts", operator.BroadcastIds(broadcast_ids=[b"x"])),
        ):
            self.assertEqual(await self.violation(method, request), field, method)

    async def test_what_may_be_tried_again(self) -> None:
        self.store.list_clients = lambda _: fail(StoreError("no database"))  # type: ignore[method-assign]
        _, [detail] = await self.details("ListClients", admin.ListClientsRequest())
        retry = error_details_pb2.RetryInfo()
        self.assertTrue(detail.Unpack(retry))
        self.assertEqual(retry.retry_delay.seconds, 1)

    async def test_others_have_none(self) -> None:
        _, details = await self.details("InsertMessage", message(client_id=b"stranger"))
        self.assertEqual(details, [])


def _count(span: operator.TimeSpan) -> operator.CountMessagesRequest:
    return operator.CountMessagesRequest(filter=operator.MessageFilter(created=span))
