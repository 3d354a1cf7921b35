"""Broadcasts, as an operator sees them."""

from __future__ import annotations

from fleetspeak.pb import broadcasts, common, operator
from tests.server.admin.case import AdminCase

ID = b"\0\0\0\0\0\0\0\1"


class PauseTests(AdminCase):
    async def setUp(self) -> None:
        await super().setUp()
        broadcast = broadcasts.Broadcast(broadcast_id=ID, source=common.Address(service_name="greeter"))
        await self.store.create_broadcast(broadcast, 5)

    async def test_pause_and_resume(self) -> None:
        await self.call("operator.PauseBroadcasts", operator.BroadcastIds(broadcast_ids=[ID, b"unknown "]))
        self.assertEqual(await self.store.active_broadcast_ids(), [])
        await self.call("operator.ResumeBroadcasts", operator.BroadcastIds(broadcast_ids=[ID]))
        self.assertEqual(await self.store.active_broadcast_ids(), [ID])
        self.assertEqual(len(self.changes), 2, "this server sees it at once")

    async def test_one_bad_id_changes_nothing(self) -> None:
        for method in ("operator.PauseBroadcasts", "operator.ResumeBroadcasts"):
            await self.assert_refused(
                "INVALID_ARGUMENT",
                "unable to parse id [1]: BroadcastID must be 8 bytes",
                method,
                operator.BroadcastIds(broadcast_ids=[ID, b"x"]),
            )
        self.assertEqual(await self.store.active_broadcast_ids(), [ID])
        self.assertEqual(self.changes, [])
