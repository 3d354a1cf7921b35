"""Broadcasts, as an operator sees them."""

from __future__ import annotations

from typing import Any

from fleetspeak.pb import broadcasts, common, operator
from tests.server.admin.case import AdminCase

BAD = "INVALID_ARGUMENT"
ID = b"\0\0\0\0\0\0\0\1"


class CreateTests(AdminCase):
    def request(self, **fields: Any) -> operator.CreateBroadcastRequest:
        broadcast = broadcasts.Broadcast(source=common.Address(service_name="greeter"), message_type="Greeting")
        broadcast.data.value = b"payload"
        return operator.CreateBroadcastRequest(broadcast=broadcast, **fields)

    async def test_create_and_list(self) -> None:
        """The id comes back; a list has everything but the payload."""
        reply = await self.call("operator.CreateBroadcast", self.request(limit=5, max_errors=2))
        self.assertEqual(len(reply.broadcast_id), 8)
        self.assertEqual(len(self.changes), 1)
        [active] = await self.store.active_broadcasts()
        self.assertEqual((active.broadcast.broadcast_id, active.max_errors), (reply.broadcast_id, 2))
        listed = await self.call("operator.ListBroadcasts", operator.ListBroadcastsRequest(state="ACTIVE"))
        [entry] = listed.broadcasts
        self.assertEqual(entry.broadcast.broadcast_id, reply.broadcast_id)
        self.assertEqual((entry.limit, entry.sent, entry.max_errors), (5, 0, 2))
        self.assertEqual((entry.state, entry.broadcast.HasField("data")), (operator.ACTIVE, False))

    async def test_a_list_by_pages(self) -> None:
        made = [(await self.call("operator.CreateBroadcast", self.request(limit=9))).broadcast_id for _ in range(5)]
        request = operator.ListBroadcastsRequest(page_size=2, service="greeter")
        found: list[bytes] = []
        while True:
            reply = await self.call("operator.ListBroadcasts", request)
            found += [one.broadcast.broadcast_id for one in reply.broadcasts]
            request.page_token = reply.next_page_token
            if not request.page_token:
                break
        self.assertEqual(found, sorted(made))

    async def test_what_is_wrong(self) -> None:
        nobody = self.request()
        nobody.broadcast.ClearField("source")
        for words, request in (
            ("CreateBroadcast needs a broadcast", operator.CreateBroadcastRequest()),
            ("Broadcast must have Source", nobody),
            ("max_errors must be below 2147483648", self.request(max_errors=2**31)),
            ("the limit of a broadcast must be at most 9223372036854775807", self.request(limit=2**63)),
        ):
            await self.assert_refused(BAD, words, "operator.CreateBroadcast", request)
        unknown = operator.ListBroadcastsRequest(state=99)  # type: ignore[arg-type]
        await self.assert_refused(BAD, "state has no value 99", "operator.ListBroadcasts", unknown)
        self.assertEqual(self.changes, [])


class PauseTests(AdminCase):
    async def setUp(self) -> None:
        await super().setUp()
        broadcast = broadcasts.Broadcast(broadcast_id=ID, source=common.Address(service_name="greeter"))
        await self.store.create_broadcast(broadcast, 5)

    async def test_pause_and_resume(self) -> None:
        await self.call("operator.PauseBroadcasts", operator.BroadcastIds(broadcast_ids=[ID, b"unknown "]))
        self.assertEqual(await self.store.active_broadcast_ids(), [])
        listed = await self.call("operator.ListBroadcasts", operator.ListBroadcastsRequest(state="PAUSED"))
        self.assertEqual([(one.state, one.limit) for one in listed.broadcasts], [(operator.PAUSED, 5)])
        await self.call("operator.ResumeBroadcasts", operator.BroadcastIds(broadcast_ids=[ID]))
        self.assertEqual(await self.store.active_broadcast_ids(), [ID])
        self.assertEqual(len(self.changes), 2, "this server sees it at once")

    async def test_one_bad_id_changes_nothing(self) -> None:
        for method in ("operator.PauseBroadcasts", "operator.ResumeBroadcasts"):
            await self.assert_refused(
                BAD,
                "unable to parse id [1]: BroadcastID must be 8 bytes",
                method,
                operator.BroadcastIds(broadcast_ids=[ID, b"x"]),
            )
        self.assertEqual(await self.store.active_broadcast_ids(), [ID])
        self.assertEqual(self.changes, [])
