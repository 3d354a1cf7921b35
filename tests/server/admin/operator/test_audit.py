"""Looking at the audit trail, and exporting it."""

from __future__ import annotations

import json

import grpc
from google.protobuf.json_format import MessageToJson

from fleetspeak.pb import admin, common, operator
from fleetspeak.records import AuditCall
from fleetspeak.server.admin.operator.audit import EXPORT_PAGE
from tests.server.admin.case import C1, M1, AdminCase, message

INSERT = "fleetspeak.server.Admin/InsertMessage"
BLACKLIST = "fleetspeak.server.Admin/BlacklistClient"


class AuditTests(AdminCase):
    async def listed(self, **fields: object) -> operator.ListAuditEntriesResponse:
        reply: operator.ListAuditEntriesResponse = await self.call(
            "operator.ListAuditEntries",
            operator.ListAuditEntriesRequest(**fields),  # type: ignore[arg-type]
        )
        return reply

    async def test_who_what_when_and_outcome(self) -> None:
        await self.call("InsertMessage", message(M1))
        self.time += 5 * 10**9
        await self.assert_refused(
            "INVALID_ARGUMENT", "client_id is required", "BlacklistClient", admin.BlacklistClientRequest()
        )
        second, first = (await self.listed()).entries
        self.assertEqual((first.caller, first.role, first.method, first.outcome), ("anonymous", "admin", INSERT, "OK"))
        self.assertRegex(first.address, r"^127\.0\.0\.1:[0-9]+$")
        self.assertIn(f"message_id={M1.hex()}", first.request)
        self.assertNotIn("payload", first.request)
        self.assertEqual(first.time.ToNanoseconds(), self.time - 5 * 10**9)
        self.assertTrue(first.HasField("duration"))
        self.assertEqual(
            (second.method, second.outcome, second.detail), (BLACKLIST, "INVALID_ARGUMENT", "client_id is required")
        )

    async def test_looks_are_not_written_down(self) -> None:
        await self.call("ListClients", admin.ListClientsRequest())
        await self.call("KeepAlive", common.EmptyMessage())
        self.assertEqual(len((await self.listed()).entries), 0)

    async def test_pages(self) -> None:
        for _ in range(5):
            await self.call("BlacklistClient", admin.BlacklistClientRequest(client_id=C1))
        numbers: list[int] = []
        token, pages = "", 0
        while pages == 0 or token:
            page = await self.listed(page_size=2, page_token=token)
            numbers += [entry.number for entry in page.entries]
            token, pages = page.next_page_token, pages + 1
        self.assertEqual((pages, len(numbers)), (3, 5))
        self.assertEqual(numbers, sorted(numbers, reverse=True))

    async def test_filters(self) -> None:
        await self.call("InsertMessage", message(M1))
        self.time += 10**9
        await self.call("BlacklistClient", admin.BlacklistClientRequest(client_id=C1))
        span = operator.TimeSpan()
        span.start.FromNanoseconds(self.time)
        for fields, methods in (
            ({"method": INSERT}, [INSERT]),
            ({"caller": "anonymous"}, [BLACKLIST, INSERT]),
            ({"caller": "alice"}, []),
            ({"time": span}, [BLACKLIST]),
        ):
            self.assertEqual([entry.method for entry in (await self.listed(**fields)).entries], methods)

    async def test_what_is_no_request(self) -> None:
        span = operator.TimeSpan()
        span.start.seconds, span.end.seconds = 2, 1
        for fields, words in (
            ({"page_size": -1}, "page_size must not be negative"),
            ({"page_token": "x"}, "page_token is none of this list"),
            ({"page_token": "9" * 30}, "page_token is none of this list"),
            ({"time": span}, "time is no span: its start is after its end"),
        ):
            await self.assert_refused(
                "INVALID_ARGUMENT",
                words,
                "operator.ListAuditEntries",
                operator.ListAuditEntriesRequest(**fields),  # type: ignore[arg-type]
            )
        with self.assertRaises(grpc.RpcError):
            await self.stream("operator.ExportAuditEntries", operator.ExportAuditEntriesRequest(after=2**64 - 1))

    async def test_export_goes_on_where_it_ended(self) -> None:
        calls = [AuditCall("alice", "unix", "admin", INSERT, str(n)) for n in range(EXPORT_PAGE + 5)]
        await self.store.begin_audit(calls)
        exported = await self.stream("operator.ExportAuditEntries", operator.ExportAuditEntriesRequest())
        self.assertEqual([entry.request for entry in exported], [call.request for call in calls])
        self.assertFalse(exported[0].HasField("duration"), "its end is not known")
        rest = await self.stream(
            "operator.ExportAuditEntries", operator.ExportAuditEntriesRequest(after=exported[-3].number)
        )
        self.assertEqual(rest, exported[-2:])

    async def test_an_entry_as_json(self) -> None:
        """One line each, for programs that collect them."""
        await self.call("InsertMessage", message(M1))
        [entry] = await self.stream("operator.ExportAuditEntries", operator.ExportAuditEntriesRequest())
        line = MessageToJson(entry, indent=None)
        self.assertNotIn("\n", line)
        self.assertEqual(json.loads(line)["method"], INSERT)

    async def test_pausing_is_written_down(self) -> None:
        """An RPC of our own service."""
        await self.call("operator.PauseBroadcasts", operator.BroadcastIds(broadcast_ids=[b"12345678"]))
        [entry] = (await self.listed()).entries
        self.assertEqual(
            (entry.method, entry.request),
            ("fleetspeak.operator.Operator/PauseBroadcasts", "broadcast_ids=[3132333435363738]"),
        )
