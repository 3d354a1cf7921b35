"""The admin API over a real gRPC connection, on the memory store (server-core.md section 8)."""

from __future__ import annotations

import threading
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import (
    AlreadyExists,
    ConfigError,
    InvalidRecord,
    NotFound,
    NotReady,
    StoreError,
)
from fleetspeak.ids import ClientId
from fleetspeak.pb import admin, broadcasts, common, monitoring
from fleetspeak.records import UNLIMITED, ClientData, Contact, ResultUpdate, RetryLimits
from fleetspeak.server.admin import server
from fleetspeak.server.admin.hop import status_of
from fleetspeak.server.admin.operations import PAGE, AdminOperations, Refused
from fleetspeak.server.admin.served import operation_name
from fleetspeak.server.admin.server import MAX_STREAMS, AdminServer
from fleetspeak.store.outcome import only
from tests.server.admin.case import ADMIN, C1, C2, M1, M2, NOW, AdminCase, message


class MessageTests(AdminCase):
    async def test_insert_and_status(self) -> None:
        woken: list[None] = []
        self.dispatcher.register(C1, lambda: woken.append(None))
        await self.call("InsertMessage", message(M1))
        self.assertEqual(len(woken), 1, "the client's stream is woken")
        status = await self.call("GetMessageStatus", admin.GetMessageStatusRequest(message_id=M1))
        self.assertEqual(status.creation_time.ToNanoseconds(), NOW)
        self.assertFalse(status.HasField("result"))

    async def test_a_failure_does_not_look_like_a_success(self) -> None:
        await self.call("InsertMessage", message(M1))
        result = common.MessageResult(failed=True, failed_reason="no such thing")
        result.processed_time.FromNanoseconds(NOW)
        await self.store.set_message_results([ResultUpdate(M1, result, C1)])
        status = await self.call("GetMessageStatus", admin.GetMessageStatusRequest(message_id=M1))
        self.assertEqual(status.result, result)

    async def test_a_dead_letter_says_that_it_is_one(self) -> None:
        """server-core.md 3.5 [improve]: what was tried for long enough has failed, in words that scripts know."""
        sent = message(M1, b"")
        sent.creation_time.FromNanoseconds(NOW)
        await self.store.store_messages([sent])
        self.time += 121 * 10**9
        await self.store.overdue_messages(1, limits=RetryLimits(max_attempts=1))
        status = await self.call("GetMessageStatus", admin.GetMessageStatusRequest(message_id=M1))
        self.assertTrue(status.result.failed)
        self.assertEqual(status.result.failed_reason, "expired: given up after 1 attempt, 121 s after its creation")
        await self.store.retry_messages([M1])
        status = await self.call("GetMessageStatus", admin.GetMessageStatusRequest(message_id=M1))
        self.assertFalse(status.HasField("result"))

    async def test_an_unknown_message_has_an_empty_status(self) -> None:
        status = await self.call("GetMessageStatus", admin.GetMessageStatusRequest(message_id=M2))
        self.assertEqual(status, admin.GetMessageStatusResponse())

    async def test_insert_says_what_is_wrong(self) -> None:
        bad = "INVALID_ARGUMENT"
        await self.assert_refused(bad, "message must have Destination", "InsertMessage", common.Message())
        await self.assert_refused(
            "NOT_FOUND",
            "expected 1 destination client result, got 0: there is no client 737472616e676572",
            "InsertMessage",
            message(client_id=b"stranger"),
        )
        await self.assert_refused(
            bad, "MessageID must be 32 bytes", "GetMessageStatus", admin.GetMessageStatusRequest(message_id=b"1")
        )

    async def test_pending_messages(self) -> None:
        sent = [message(bytes([65 + n]) * 32) for n in range(5)]
        for each in sent:
            await self.call("InsertMessage", each)
        count = await self.call("GetPendingMessageCount", admin.GetPendingMessageCountRequest(client_ids=[C1, C2]))
        self.assertEqual(count.count, 5)
        request = admin.GetPendingMessagesRequest(client_ids=[C1], offset=1, limit=2, want_data=True)
        page = await self.call("GetPendingMessages", request)
        self.assertEqual([each.message_id for each in page.messages], [sent[1].message_id, sent[2].message_id])
        self.assertEqual(page.messages[0].data.value, b"payload")
        await self.call("DeletePendingMessages", admin.DeletePendingMessagesRequest(client_ids=[C1]))
        status = await self.call("GetMessageStatus", admin.GetMessageStatusRequest(message_id=sent[0].message_id))
        self.assertEqual(status.result.failed_reason, "Removed by admin action.")

    async def test_no_clients_means_nothing_to_do(self) -> None:
        await self.call("InsertMessage", message(M1))
        await self.call("DeletePendingMessages", admin.DeletePendingMessagesRequest())
        everything = await self.call("GetPendingMessages", admin.GetPendingMessagesRequest())
        self.assertEqual(len(everything.messages), 0)
        count = await self.call("GetPendingMessageCount", admin.GetPendingMessageCountRequest(client_ids=[C1]))
        self.assertEqual(count.count, 1)

    async def test_pages_are_checked(self) -> None:
        await self.assert_refused(
            "INVALID_ARGUMENT",
            "if offset is provided, a limit must be provided as well",
            "GetPendingMessages",
            admin.GetPendingMessagesRequest(client_ids=[C1], offset=1),
        )
        await self.assert_refused(
            "INVALID_ARGUMENT",
            "offset and limit must be at most 9223372036854775807",
            "GetPendingMessages",
            admin.GetPendingMessagesRequest(client_ids=[C1], offset=2**64 - 1, limit=1),
        )

    async def test_a_request_of_more_than_4_mib_is_refused(self) -> None:
        large = message()
        large.data.value = b"x" * (4 * 1024 * 1024)
        with self.assertRaises(grpc.RpcError) as caught:
            await self.call("InsertMessage", large)
        self.assertEqual(caught.exception.code().name, "RESOURCE_EXHAUSTED")  # type: ignore[attr-defined]


class ClientTests(AdminCase):
    async def test_list_clients(self) -> None:
        everyone = await self.call("ListClients", admin.ListClientsRequest())
        self.assertEqual(sorted(client.client_id for client in everyone.clients), [C1, C2])
        some = await self.call("ListClients", admin.ListClientsRequest(client_ids=[C1, b"stranger"]))
        [client] = some.clients
        self.assertEqual([label.label for label in client.labels], ["linux"], "labels also with explicit ids")

    async def test_a_bad_id_is_named_by_its_place(self) -> None:
        await self.assert_refused(
            "INVALID_ARGUMENT",
            "unable to parse id [1]: ClientID must be 8 bytes",
            "ListClients",
            admin.ListClientsRequest(client_ids=[C1, b"x"]),
        )

    async def test_stream_client_ids(self) -> None:
        ids = [ClientId((1000 + n).to_bytes(8, "big")) for n in range(PAGE + 5)]
        for client_id in ids:
            await self.store.add_client(client_id, ClientData(key=b"k"))
        await self.call("BlacklistClient", admin.BlacklistClientRequest(client_id=C2))
        replies = await self.stream("StreamClientIds", admin.StreamClientIdsRequest())
        self.assertEqual([reply.client_id for reply in replies], [C1, *ids])
        replies = await self.stream("StreamClientIds", admin.StreamClientIdsRequest(include_blacklisted=True))
        self.assertEqual(len(replies), len(ids) + 2)
        later = admin.StreamClientIdsRequest(last_contact_after=Timestamp(seconds=NOW // 10**9))
        self.assertEqual(await self.stream("StreamClientIds", later), [])

    async def test_contacts(self) -> None:
        for number in range(3):
            contact = Contact(C1, sent_nonce=number + 1, received_nonce=2**64 - 1, address="[::1]:9")
            await only(self.store.record_contacts([contact]))
        listed = await self.call("ListClientContacts", admin.ListClientContactsRequest(client_id=C1))
        self.assertEqual([contact.sent_nonce for contact in listed.contacts], [1, 2, 3])
        first = listed.contacts[0]
        self.assertEqual((first.received_nonce, first.observed_address), (2**64 - 1, "[::1]:9"))
        self.assertEqual(first.timestamp.ToNanoseconds(), NOW)
        streamed = await self.stream("StreamClientContacts", admin.StreamClientContactsRequest(client_id=C1))
        self.assertEqual([reply.contact for reply in streamed], list(listed.contacts))
        none = await self.call("ListClientContacts", admin.ListClientContactsRequest(client_id=b"stranger"))
        self.assertEqual(len(none.contacts), 0)

    async def test_a_blacklisting_does_not_wait_for_the_cache(self) -> None:
        await self.cache.lookup(C1)
        await self.call("BlacklistClient", admin.BlacklistClientRequest(client_id=C1))
        known = await self.cache.lookup(C1)
        assert known is not None
        self.assertTrue(known.blacklisted)
        await self.call("BlacklistClient", admin.BlacklistClientRequest(client_id=b"stranger"))

    async def test_resource_usage(self) -> None:
        usage = monitoring.ResourceUsageData(scope="hello", pid=7)
        usage.process_start_time.seconds, usage.data_timestamp.seconds = 10, 20
        await self.store.record_resource_usage(C1, usage)
        start, end = Timestamp(), Timestamp()
        start.FromNanoseconds(NOW)
        end.FromNanoseconds(NOW + 1)
        request = admin.FetchClientResourceUsageRecordsRequest(client_id=C1, start_timestamp=start, end_timestamp=end)
        reply = await self.call("FetchClientResourceUsageRecords", request)
        self.assertEqual([record.scope for record in reply.records], ["hello"])
        request.start_timestamp.FromNanoseconds(NOW + 2)
        await self.assert_refused(
            "INVALID_ARGUMENT",
            "timerange is invalid: start timestamp is after end timestamp",
            "FetchClientResourceUsageRecords",
            request,
        )
        request.ClearField("end_timestamp")
        await self.assert_refused(
            "INVALID_ARGUMENT",
            "start_timestamp and end_timestamp are required",
            "FetchClientResourceUsageRecords",
            request,
        )

    async def test_keep_alive(self) -> None:
        self.assertEqual(await self.call("KeepAlive", common.EmptyMessage(), 1.0), common.EmptyMessage())


class FileTests(AdminCase):
    """server-core.md 8, StoreFile and DeleteFile."""

    async def test_store_and_replace(self) -> None:
        for data in (b"first", b"second"):
            await self.call("StoreFile", admin.StoreFileRequest(service_name="S", file_name="a b/c", data=data))
            self.assertEqual((await self.store.read_file("S", "a b/c")).data, data)

    async def test_delete(self) -> None:
        await self.store.store_file("S", "n", b"data")
        for _ in range(2):  # a missing file is no error
            await self.call("DeleteFile", admin.DeleteFileRequest(service_name="S", file_name="n"))
        with self.assertRaises(NotFound):
            await self.store.stat_file("S", "n")

    async def test_both_names_are_required(self) -> None:
        text = "file must have service_name and file_name"
        for names in ({}, {"service_name": "S"}, {"file_name": "n"}):
            await self.assert_refused("INVALID_ARGUMENT", text, "StoreFile", admin.StoreFileRequest(**names))
            await self.assert_refused("INVALID_ARGUMENT", text, "DeleteFile", admin.DeleteFileRequest(**names))

    async def test_an_over_long_name_is_refused(self) -> None:
        request = admin.StoreFileRequest(service_name="S", file_name="n" * 129)
        await self.assert_refused(
            "INVALID_ARGUMENT",
            "the name of a file or of its service has more than 128 characters",
            "StoreFile",
            request,
        )


class BroadcastTests(AdminCase):
    def request(self, broadcast_id: bytes = b"", limit: int = 5, **fields: Any) -> admin.CreateBroadcastRequest:
        broadcast = broadcasts.Broadcast(broadcast_id=broadcast_id, **fields)
        broadcast.source.service_name = "greeter"
        return admin.CreateBroadcastRequest(broadcast=broadcast, limit=limit)

    async def listed(self, service: str = "") -> list[bytes]:
        reply = await self.call("ListActiveBroadcasts", admin.ListActiveBroadcastsRequest(service_name=service))
        return [broadcast.broadcast_id for broadcast in reply.broadcasts]

    async def test_create_list_and_disable(self) -> None:
        await self.call("CreateBroadcast", self.request())
        await self.call("CreateBroadcast", self.request(b"the id 8", group_name="group"))
        await self.call("CreateBroadcast", self.request(b"disabled", limit=0))
        self.assertEqual(len(self.changes), 3)
        first, second = sorted(await self.listed("greeter"), key=lambda one: one == b"the id 8")
        self.assertEqual((len(first), second), (8, b"the id 8"))
        self.assertEqual(await self.listed("other"), [])
        await self.call("DisableBroadcasts", admin.DisableBroadcastsRequest(broadcast_ids=[first, b"unknown "]))
        self.assertEqual(await self.listed(), [second])
        await self.call("DisableBroadcasts", admin.DisableBroadcastsRequest())
        self.assertEqual(len(self.changes), 4)

    async def test_what_is_wrong_with_them(self) -> None:
        await self.call("CreateBroadcast", self.request(b"the id 8"))
        sourceless = self.request()
        sourceless.broadcast.ClearField("source")
        large = self.request()
        large.broadcast.data.value = bytes(2 * 1024 * 1024 + 1)
        for code, words, request in (
            ("ALREADY_EXISTS", "there is a broadcast 7468652069642038 already", self.request(b"the id 8")),
            ("INVALID_ARGUMENT", "BroadcastID must be 8 bytes, not 5", self.request(b"short")),
            ("INVALID_ARGUMENT", "Broadcast must have Source", sourceless),
            ("INVALID_ARGUMENT", "broadcast is of size 2097158, which exceeds the 2097152-byte limit", large),
        ):
            await self.assert_refused(code, words, "CreateBroadcast", request)

    async def test_a_limit_beyond_unlimited_is_unlimited(self) -> None:
        """As for the Go server: there are programs that send the greatest number there is."""
        await self.call("CreateBroadcast", self.request(b"the id 8", limit=2**64 - 1))
        [active] = await self.store.active_broadcasts()
        self.assertEqual(active.limit, UNLIMITED)

    async def test_one_bad_id_disables_nothing(self) -> None:
        await self.call("CreateBroadcast", self.request(b"the id 8"))
        bad = admin.DisableBroadcastsRequest(broadcast_ids=[b"the id 8", b"bad"])
        words = "unable to parse id [1]: BroadcastID must be 8 bytes"
        await self.assert_refused("INVALID_ARGUMENT", words, "DisableBroadcasts", bad)
        self.assertEqual(await self.listed(), [b"the id 8"])


class HostileTests(AdminCase):
    async def test_create_broadcast_without_a_broadcast_ends_nothing(self) -> None:
        """server-https.md 8: one of the inputs that end the upstream process."""
        await self.assert_refused(
            "INVALID_ARGUMENT", "CreateBroadcast needs a broadcast", "CreateBroadcast", admin.CreateBroadcastRequest()
        )
        await self.call("KeepAlive", common.EmptyMessage())


class ThreadTests(AdminCase):
    """grpc's threads beside the reactor."""

    def hang(self, method: str) -> tuple[list[object], threading.Event]:
        """Make an operation of the store take for ever.

        Gives a list, to which each call that is cancelled adds something, and an event that is set by the first call.
        """
        begun = threading.Event()
        cancelled: list[object] = []

        def begin(*args: object) -> Deferred[None]:
            begun.set()
            return Deferred(cancelled.append)

        setattr(self.store, method, begin)
        return cancelled, begun

    async def test_a_caller_that_goes_away_cancels_the_work(self) -> None:
        cancelled, begun = self.hang("pending_message_count")
        call = self.stub.GetPendingMessageCount.future(admin.GetPendingMessageCountRequest(client_ids=[C1]))
        await deferToThread(begun.wait, 10)
        call.cancel()
        await self.when(lambda: bool(cancelled))

    async def test_a_deadline_ends_the_wait(self) -> None:
        _, begun = self.hang("pending_message_count")
        with self.assertRaises(grpc.RpcError) as caught:
            await self.call("GetPendingMessageCount", admin.GetPendingMessageCountRequest(client_ids=[C1]), 0.2)
        self.assertEqual(caught.exception.code().name, "DEADLINE_EXCEEDED")  # type: ignore[attr-defined]
        self.assertTrue(begun.is_set())

    async def test_streamed_replies_leave_threads_for_others(self) -> None:
        _, begun = self.hang("client_ids")
        streams = [self.stub.StreamClientIds(admin.StreamClientIdsRequest()) for _ in range(MAX_STREAMS)]
        await deferToThread(begun.wait, 10)
        await self.when(lambda: self.server._calls._streams._value == 0)  # type: ignore[attr-defined]
        with self.assertRaises(grpc.RpcError) as caught:
            await self.stream("StreamClientIds", admin.StreamClientIdsRequest())
        self.assertEqual(caught.exception.code().name, "RESOURCE_EXHAUSTED")  # type: ignore[attr-defined]
        await self.call("KeepAlive", common.EmptyMessage())
        for stream in streams:
            stream.cancel()
        await self.when(lambda: self.server._calls._streams._value == MAX_STREAMS)  # type: ignore[attr-defined]

    async def test_a_reader_that_leaves_in_the_middle_gives_its_place_back(self) -> None:
        for n in range(3 * PAGE):
            await self.store.add_client(ClientId((1000 + n).to_bytes(8, "big")), ClientData(key=b"k"))
        stream = self.stub.StreamClientIds(admin.StreamClientIdsRequest())
        await deferToThread(next, stream)
        stream.cancel()
        await self.when(lambda: self.server._calls._streams._value == MAX_STREAMS)  # type: ignore[attr-defined]

    async def test_a_defect_is_logged_and_told_without_details(self) -> None:
        self.store.pending_message_count = lambda ids: 1 / 0  # type: ignore[assignment, method-assign, return-value]
        await self.assert_refused(
            "INTERNAL",
            "an error of the server; its log has the details",
            "GetPendingMessageCount",
            admin.GetPendingMessageCountRequest(client_ids=[C1]),
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_a_stop_ends_calls_that_wait(self) -> None:
        self.patch(server, "STOP_GRACE", 0.1)
        _, begun = self.hang("pending_message_count")
        ended = self.call("GetPendingMessageCount", admin.GetPendingMessageCountRequest(client_ids=[C1]))
        await deferToThread(begun.wait, 10)
        await self.server.stop()
        with self.assertRaises(grpc.RpcError):
            await ended

    async def test_a_second_server_on_the_same_port_is_refused(self) -> None:
        port = int(self.server.address.rpartition(":")[2])
        with self.assertRaisesRegex(ConfigError, "failed to initialize admin server: cannot listen on 127.0.0.1:"):
            AdminServer(self.services, "127.0.0.1", port, reactor).start()


class ShapeTests(SynchronousTestCase):
    def test_every_rpc_has_its_operation(self) -> None:
        for method in ADMIN.methods:
            self.assertTrue(hasattr(AdminOperations, operation_name(method.name)), method.name)
        self.assertEqual(operation_name("FetchClientResourceUsageRecords"), "fetch_client_resource_usage_records")

    def test_each_error_has_its_status(self) -> None:
        for error, code in (
            (Refused("UNIMPLEMENTED", "x"), "UNIMPLEMENTED"),
            (InvalidRecord("x"), "INVALID_ARGUMENT"),
            (ValueError("x"), "INVALID_ARGUMENT"),
            (NotFound("x"), "NOT_FOUND"),
            (AlreadyExists("x"), "ALREADY_EXISTS"),
            (StoreError("x"), "UNAVAILABLE"),
            (NotReady("x"), "UNAVAILABLE"),
            (KeyError("x"), "INTERNAL"),
        ):
            self.assertEqual(status_of(error)[0], code)
