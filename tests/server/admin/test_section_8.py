"""Each row of server-core section 8: what the Go server's API means, without its weaknesses (section 14, admin)."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.errors import NotFound
from fleetspeak.ids import ClientId
from fleetspeak.pb import admin, broadcasts, common, monitoring
from fleetspeak.records import UNLIMITED, Contact
from fleetspeak.server.inserts import MAX_MESSAGE
from fleetspeak.server.stats import ServerStats
from fleetspeak.server.stats.store import MeasuredStore
from fleetspeak.store.outcome import only
from fleetspeak.testing.serverside import RecordingServerStats
from tests.server.admin.case import ADMIN, C1, C2, M1, M2, NOW, AdminCase, message

BAD = "INVALID_ARGUMENT"
STRANGER = ClientId(b"stranger")
B1 = b"\0\0\0\0\0\0\0\1"


class Section8Tests(AdminCase):
    """One test for each RPC, by its name."""

    def broadcast(self, broadcast_id: bytes = B1, **fields: Any) -> broadcasts.Broadcast:
        source = common.Address(service_name="greeter")
        return broadcasts.Broadcast(broadcast_id=broadcast_id, source=source, **fields)

    async def create(self, broadcast: broadcasts.Broadcast, limit: int = 5) -> None:
        await self.call("CreateBroadcast", admin.CreateBroadcastRequest(broadcast=broadcast, limit=limit))

    async def active(self, service: str = "") -> list[broadcasts.Broadcast]:
        request = admin.ListActiveBroadcastsRequest(service_name=service)
        return list((await self.call("ListActiveBroadcasts", request)).broadcasts)

    async def status(self, message_id: bytes) -> admin.GetMessageStatusResponse:
        reply = await self.call("GetMessageStatus", admin.GetMessageStatusRequest(message_id=message_id))
        assert isinstance(reply, admin.GetMessageStatusResponse)
        return reply

    async def test_server_core_8_create_broadcast(self) -> None:
        """An empty id is filled in; source and a good id are required; 0 is disabled; it is seen at once."""
        await self.create(self.broadcast(b""))
        [made] = await self.active()
        self.assertEqual((len(made.broadcast_id), len(self.changes)), (8, 1))
        await self.create(self.broadcast(B1), limit=0)
        self.assertEqual(len(await self.active()), 1)
        for code, words, request in (
            (BAD, "CreateBroadcast needs a broadcast", admin.CreateBroadcastRequest()),
            (BAD, "Broadcast must have Source", admin.CreateBroadcastRequest(broadcast=broadcasts.Broadcast())),
            (
                BAD,
                "BroadcastID must be 8 bytes, not 3",
                admin.CreateBroadcastRequest(broadcast=self.broadcast(b"bad")),
            ),
            (
                "ALREADY_EXISTS",
                "there is a broadcast 0000000000000001 already",
                admin.CreateBroadcastRequest(broadcast=self.broadcast()),
            ),
        ):
            await self.assert_refused(code, words, "CreateBroadcast", request)

    async def test_server_core_8_list_active_broadcasts(self) -> None:
        """Those that may still be sent, of one source service or all."""
        past, future = Timestamp(seconds=NOW // 10**9), Timestamp(seconds=NOW // 10**9 + 1)
        await self.create(self.broadcast(expiration_time=future), UNLIMITED)
        await self.create(self.broadcast(b"expired ", expiration_time=past))
        await self.create(self.broadcast(b"disabled"), limit=0)
        self.assertEqual([one.broadcast_id for one in await self.active("greeter")], [B1])
        self.assertEqual(await self.active("other"), [])

    async def test_server_core_8_disable_broadcasts(self) -> None:
        """None is nothing to do; one bad id changes nothing; unknown ones are passed over."""
        await self.create(self.broadcast())
        await self.call("DisableBroadcasts", admin.DisableBroadcastsRequest())
        bad = admin.DisableBroadcastsRequest(broadcast_ids=[B1, b"bad"])
        words = "unable to parse id [1]: BroadcastID must be 8 bytes"
        await self.assert_refused(BAD, words, "DisableBroadcasts", bad)
        self.assertEqual(len(await self.active()), 1)
        await self.call("DisableBroadcasts", admin.DisableBroadcastsRequest(broadcast_ids=[b"unknown ", B1]))
        self.assertEqual(await self.active(), [])

    async def test_server_core_8_list_clients(self) -> None:
        """All, or those that are known, with their labels in either case."""
        for wanted in ([], [C1, STRANGER, C2]):
            clients = (await self.call("ListClients", admin.ListClientsRequest(client_ids=wanted))).clients
            labels = {client.client_id: [label.label for label in client.labels] for client in clients}
            self.assertEqual(labels, {C1: ["linux"], C2: ["linux"]})
        bad = admin.ListClientsRequest(client_ids=[C1, b"bad"])
        await self.assert_refused(BAD, "unable to parse id [1]: ClientID must be 8 bytes", "ListClients", bad)

    async def test_server_core_8_stream_client_ids(self) -> None:
        """Those with a contact after the time, strictly; blacklisted ones when they are asked for."""
        await self.store.blacklist_client(C2)
        at, before = Timestamp(), Timestamp()
        at.FromNanoseconds(NOW)
        before.FromNanoseconds(NOW - 1)
        for request, expected in (
            (admin.StreamClientIdsRequest(), [C1]),
            (admin.StreamClientIdsRequest(include_blacklisted=True), [C1, C2]),
            (admin.StreamClientIdsRequest(include_blacklisted=True, last_contact_after=before), [C1, C2]),
            (admin.StreamClientIdsRequest(include_blacklisted=True, last_contact_after=at), []),
        ):
            replies = await self.stream("StreamClientIds", request)
            self.assertEqual([reply.client_id for reply in replies], expected)

    async def contacts(self, client_id: bytes) -> list[list[int]]:
        """The nonces that were sent, by either RPC."""
        listed = await self.call("ListClientContacts", admin.ListClientContactsRequest(client_id=client_id))
        streamed = await self.stream("StreamClientContacts", admin.StreamClientContactsRequest(client_id=client_id))
        return [
            [contact.sent_nonce for contact in listed.contacts],
            [reply.contact.sent_nonce for reply in streamed],
        ]

    async def test_server_core_8_list_client_contacts(self) -> None:
        """All of one client; none of an unknown one."""
        for number in (1, 2):
            await only(self.store.record_contacts([Contact(C1, number, 0, "127.0.0.1:1")]))
        self.assertEqual((await self.contacts(C1))[0], [1, 2])
        self.assertEqual((await self.contacts(STRANGER))[0], [])

    async def test_server_core_8_stream_client_contacts(self) -> None:
        """The same, one by one."""
        for number in (1, 2):
            await only(self.store.record_contacts([Contact(C1, number, 0, "127.0.0.1:1")]))
        self.assertEqual((await self.contacts(C1))[1], [1, 2])
        self.assertEqual((await self.contacts(STRANGER))[1], [])

    async def test_server_core_8_get_message_status(self) -> None:
        """A failure shows as one; an unknown message is no error, an id that is none is."""
        await self.call("InsertMessage", message(M1))
        self.assertEqual((await self.status(M1)).creation_time.ToNanoseconds(), NOW)
        await self.call("DeletePendingMessages", admin.DeletePendingMessagesRequest(client_ids=[C1]))
        result = (await self.status(M1)).result
        self.assertEqual((result.failed, result.failed_reason), (True, "Removed by admin action."))
        self.assertEqual(await self.status(M2), admin.GetMessageStatusResponse())
        for words, wrong in (("MessageID must be 32 bytes", b"bad"), ("message_id is required", b"")):
            await self.assert_refused(BAD, words, "GetMessageStatus", admin.GetMessageStatusRequest(message_id=wrong))

    async def test_server_core_8_insert_message_1_addresses(self) -> None:
        """A destination and a source, which is not looked at any further."""
        await self.assert_refused(BAD, "message must have Destination", "InsertMessage", common.Message())
        nobody = message()
        nobody.source.service_name = ""
        await self.assert_refused(BAD, "message must have Source", "InsertMessage", nobody)
        anyone = message(M1)
        anyone.source.service_name = "system"
        await self.call("InsertMessage", anyone)

    async def test_server_core_8_insert_message_2_id_and_time(self) -> None:
        """Filled in where they are missing."""
        await self.call("InsertMessage", message())
        [stored] = await self.store.pending_messages([C1])
        self.assertEqual((len(stored.message_id), stored.creation_time.ToNanoseconds()), (32, NOW))

    async def test_server_core_8_insert_message_3_client_and_size(self) -> None:
        """The client must be known, and the message not too large for it."""
        words = "unable to parse destination client id: ClientID must be 8 bytes"
        await self.assert_refused(BAD, words, "InsertMessage", message(client_id=b"bad"))
        words = "expected 1 destination client result, got 0: there is no client 737472616e676572"
        await self.assert_refused("NOT_FOUND", words, "InsertMessage", message(client_id=STRANGER))
        large = message(M1)
        large.creation_time.FromNanoseconds(NOW)
        large.data.value = bytes(MAX_MESSAGE - large.ByteSize() - 1)  # a longer length takes more bytes
        while large.ByteSize() < MAX_MESSAGE:
            large.data.value += b"\0"
        large.data.value = large.data.value[: len(large.data.value) - (large.ByteSize() - MAX_MESSAGE)]
        await self.call("InsertMessage", large)
        large.data.value += b"\0"
        words = (
            f"message intended for client {C1.hex()} is of size {MAX_MESSAGE + 1}, which exceeds the 2097152-byte limit"
        )
        await self.assert_refused(BAD, words, "InsertMessage", large)

    async def test_server_core_8_insert_message_4_twice(self) -> None:
        """Nothing happens the second time: whoever sets the id may try again."""
        for _ in range(2):
            await self.call("InsertMessage", message(M1))
        self.assertEqual(await self.store.pending_message_count([C1]), 1)

    async def test_server_core_8_insert_message_5_the_stream_is_woken(self) -> None:
        woken: list[None] = []
        self.dispatcher.register(C1, lambda: woken.append(None))
        await self.call("InsertMessage", message(M1))
        self.assertEqual(len(woken), 1)

    async def test_server_core_8_insert_message_6_to_a_service_of_the_server(self) -> None:
        """Processed at once; to one that there is not it fails, instead of waiting for a minute or two."""
        await self.call("InsertMessage", message(M1, b""))
        await self.when_processed(M1)
        result = (await self.status(M1)).result
        self.assertEqual((result.failed, result.failed_reason), (True, 'unknown service "hello"'))

    async def when_processed(self, message_id: bytes) -> None:
        for _ in range(100):
            if (await self.status(message_id)).HasField("result"):
                return
        self.fail("in vain")

    async def test_server_core_8_delete_pending_messages(self) -> None:
        """All that waits for these clients; no clients are nothing to do, and not everything."""
        for message_id, client_id in ((M1, C1), (M2, C2)):
            await self.call("InsertMessage", message(message_id, client_id))
        await self.call("DeletePendingMessages", admin.DeletePendingMessagesRequest())
        self.assertEqual(await self.store.pending_message_count([C1, C2]), 2)
        await self.call("DeletePendingMessages", admin.DeletePendingMessagesRequest(client_ids=[C1]))
        self.assertEqual(await self.store.pending_message_count([C1, C2]), 1)
        words = "Can't delete pending messages: unable to parse id [0]: ClientID must be 8 bytes"
        bad = admin.DeletePendingMessagesRequest(client_ids=[b"bad"])
        await self.assert_refused(BAD, words, "DeletePendingMessages", bad)

    async def test_server_core_8_get_pending_messages(self) -> None:
        """By id, by pages, with payloads on demand; also what was sent and not confirmed."""
        ids = [bytes([number]) * 32 for number in range(1, 5)]
        for message_id in ids:
            await self.call("InsertMessage", message(message_id))

        async def page(**fields: Any) -> list[tuple[bytes, bool]]:
            request = admin.GetPendingMessagesRequest(client_ids=[C1], **fields)
            messages = (await self.call("GetPendingMessages", request)).messages
            return [(one.message_id, one.HasField("data")) for one in messages]

        self.assertEqual(await page(), [(one, False) for one in ids])
        self.assertEqual(await page(offset=1, limit=2, want_data=True), [(one, True) for one in ids[1:3]])
        words = "if offset is provided, a limit must be provided as well"
        await self.assert_refused(
            BAD, words, "GetPendingMessages", admin.GetPendingMessagesRequest(client_ids=[C1], offset=1)
        )

    async def test_server_core_8_get_pending_message_count(self) -> None:
        """For all these clients together."""
        for message_id, client_id in ((M1, C1), (M2, C2)):
            await self.call("InsertMessage", message(message_id, client_id))
        request = admin.GetPendingMessageCountRequest(client_ids=[C1, C2, C1])
        self.assertEqual((await self.call("GetPendingMessageCount", request)).count, 2)

    async def test_server_core_8_store_file(self) -> None:
        """Both names are needed; it replaces."""
        for data in (b"one", b"two"):
            await self.call("StoreFile", admin.StoreFileRequest(service_name="S", file_name="n", data=data))
        self.assertEqual((await self.store.read_file("S", "n")).data, b"two")
        words = "file must have service_name and file_name"
        await self.assert_refused(BAD, words, "StoreFile", admin.StoreFileRequest(file_name="n"))

    async def test_server_core_8_delete_file(self) -> None:
        """A missing one is no error."""
        await self.store.store_file("S", "n", b"data")
        for _ in range(2):
            await self.call("DeleteFile", admin.DeleteFileRequest(service_name="S", file_name="n"))
        with self.assertRaises(NotFound):
            await self.store.stat_file("S", "n")
        words = "file must have service_name and file_name"
        await self.assert_refused(BAD, words, "DeleteFile", admin.DeleteFileRequest(service_name="S"))

    async def test_server_core_8_keep_alive(self) -> None:
        """Within the second that callers give it."""
        self.assertEqual(await self.call("KeepAlive", common.EmptyMessage(), 1.0), common.EmptyMessage())

    async def test_server_core_8_blacklist_client(self) -> None:
        """Whoever asks next sees it; an unknown client is no error."""
        await self.cache.lookup(C1)
        await self.call("BlacklistClient", admin.BlacklistClientRequest(client_id=C1))
        self.assertTrue((await self.cache.lookup(C1)).blacklisted)  # type: ignore[union-attr]
        await self.call("BlacklistClient", admin.BlacklistClientRequest(client_id=STRANGER))

    async def test_server_core_8_fetch_client_resource_usage_records(self) -> None:
        """Of start <= time < end, which are both needed."""
        usage = monitoring.ResourceUsageData(scope="hello", pid=7)
        usage.process_start_time.seconds, usage.data_timestamp.seconds = 10, 20
        await self.store.record_resource_usage(C1, usage)
        method = "FetchClientResourceUsageRecords"

        def span(start: int, end: int) -> admin.FetchClientResourceUsageRecordsRequest:
            request = admin.FetchClientResourceUsageRecordsRequest(client_id=C1)
            request.start_timestamp.FromNanoseconds(NOW + start)
            request.end_timestamp.FromNanoseconds(NOW + end)
            return request

        for start, end, count in ((0, 1, 1), (-1, 0, 0), (1, 2, 0)):
            self.assertEqual(len((await self.call(method, span(start, end))).records), count)
        words = "timerange is invalid: start timestamp is after end timestamp"
        await self.assert_refused(BAD, words, method, span(1, 0))
        words = "start_timestamp and end_timestamp are required"
        await self.assert_refused(BAD, words, method, admin.FetchClientResourceUsageRecordsRequest(client_id=C1))

    def test_every_row_has_its_test(self) -> None:
        """And this notices when one is missing."""
        names = [name.replace("_", "") for name in dir(self) if name.startswith("test_server_core_8_")]
        for method in ADMIN.methods:
            wanted = f"testservercore8{method.name.lower()}"
            self.assertTrue(any(name.startswith(wanted) for name in names), method.name)


class InMetricsTests(AdminCase):
    async def test_server_core_14_admin_operations_are_in_the_metrics(self) -> None:
        """They go through the store that everything else goes through."""
        heard = RecordingServerStats()
        measured = MeasuredStore(self.store, ServerStats([heard], _Clock()))
        self.operations._store = measured  # type: ignore[assignment]
        await self.call("ListClients", admin.ListClientsRequest())
        self.assertEqual([name for name, *_ in heard.calls("store_operation")], ["ListClients"])


class _Clock:
    def seconds(self) -> float:
        return 0.0
