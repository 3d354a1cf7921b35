"""Broadcasts: limits, shares of them, and who was sent what."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as AnyProto

from fleetspeak.errors import AlreadyExists, InvalidRecord, NotFound, NotSent
from fleetspeak.pb import broadcasts, common
from fleetspeak.records import UNLIMITED, Allocation, BroadcastSend, Claim, ResultUpdate
from fleetspeak.store.outcome import only
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    C3,
    MINUTE,
    StoreCase,
    failure,
    message_id,
    timestamp,
)

START = 10_000


def broadcast_id(number: int) -> bytes:
    """A broadcast id that sorts like its number."""
    return number.to_bytes(8, "big")


def broadcast(number: int, **fields: Any) -> broadcasts.Broadcast:
    """A broadcast of service ``testService``."""
    made = broadcasts.Broadcast(broadcast_id=broadcast_id(number), **fields)
    made.source.service_name = "testService"
    return made


def send(number: int, of: int, allocation: Allocation | None, client_id: bytes = C1) -> BroadcastSend:
    """Send message `number` of broadcast `of`."""
    message = common.Message(message_id=message_id(number), creation_time=timestamp(START))
    message.destination.client_id, message.destination.service_name = client_id, "clientService"
    return BroadcastSend(message, broadcast_id(of), allocation.allocation_id if allocation else b"")


class BroadcastsContract(StoreCase):
    """See the package."""

    async def allocate(self, number: int, fraction: float = 1.0) -> Allocation:
        """A share, of which there must be some; for five minutes."""
        found = await self.store.allocate_broadcast(broadcast_id(number), fraction, self.clock.ns + 5 * MINUTE)
        assert found is not None
        return found

    async def save(self, number: int, of: int, allocation: Allocation | None, client_id: bytes = C1) -> None:
        """Send one message."""
        await only(self.store.save_broadcast_messages([send(number, of, allocation, client_id)]))

    async def active(self) -> dict[int, int]:
        """What was sent of the active broadcasts, by their numbers."""
        found = await self.store.active_broadcasts()
        listed = [one.broadcast.broadcast_id for one in found]
        self.assertEqual(await self.store.active_broadcast_ids(), listed)
        return {int.from_bytes(one.broadcast.broadcast_id, "big"): one.sent for one in found}

    async def create_five(self) -> broadcasts.Broadcast:
        """The broadcasts of cases 32 to 35; gives the first one."""
        self.clock.set(START)
        first = broadcast(
            0,
            message_type="message type",
            destination=common.Address(service_name="clientService"),
            data=AnyProto(type_url="test data proto urn", value=b"Test data proto"),
        )
        await self.store.create_broadcast(first, 8)
        await self.store.create_broadcast(broadcast(1, expiration_time=timestamp(200_000)), 8)
        await self.store.create_broadcast(broadcast(2), 0)
        await self.store.create_broadcast(broadcast(3, expiration_time=timestamp(START)), 100)
        await self.store.create_broadcast(broadcast(4), UNLIMITED)
        return first

    async def test_items_32_33_34_35_broadcasts(self) -> None:
        """Active ones, shares of them, giving these back, and the end."""
        first = await self.create_five()
        self.assertEqual(await self.active(), {0: 0, 1: 0, 4: 0})
        self.clock.set(200_001)
        found = await self.store.active_broadcasts()
        self.assertEqual([one.broadcast.broadcast_id for one in found], [broadcast_id(0), broadcast_id(4)])
        self.assertEqual((found[0].broadcast, found[0].limit, found[0].sent), (first, 8, 0))

        shares = [await self.allocate(0, fraction) for fraction in (0.5, 0.5, 0.1, 2.0)]
        self.assertEqual([share.limit for share in shares], [4, 2, 1, 1])
        self.assertIsNone(await self.store.allocate_broadcast(broadcast_id(0), 2.0, self.clock.ns + 5 * MINUTE))
        unlimited = await self.allocate(4, 0.1)
        self.assertEqual(unlimited.limit, UNLIMITED)
        self.assertTrue(unlimited.allocation_id)

        await self.add_client()
        await self.save(1, 0, shares[0])
        await self.save(2, 4, unlimited)
        for number, share in [(4, unlimited), *((0, share) for share in shares)]:
            sent = int(share in (unlimited, shares[0]))
            await self.store.clean_up_allocation(broadcast_id(number), share.allocation_id, sent)
        self.assertEqual(await self.active(), {0: 1, 4: 1})
        self.assertEqual(await self.store.sent_broadcasts([C1, C2]), {C1: [broadcast_id(0), broadcast_id(4)]})

        share = await self.allocate(0, 0.5)
        await self.store.disable_broadcasts([broadcast_id(0), broadcast_id(77)])
        for allocation in (share, None):
            error = await self.refused(self.save(3, 0, allocation), NotSent)
            self.assertIn("broadcast disabled", str(error))
        await self.store.clean_up_allocation(broadcast_id(0), share.allocation_id, 0)
        self.assertEqual(await self.active(), {4: 1})

    async def test_item_36_unlimited_without_a_share(self) -> None:
        """What is sent is accounted for at clean-up."""
        await self.add_client()
        await self.store.create_broadcast(broadcast(0), UNLIMITED)
        await self.save(1, 0, None)
        self.assertEqual(await self.active(), {0: 0})
        await self.store.clean_up_allocation(broadcast_id(0), b"", 1)
        self.assertEqual(await self.active(), {0: 1})

    async def test_item_37_groups(self) -> None:
        """The same group, source, destination and labels: the newer one takes the place of the older one."""
        label = [common.Label(service_name="client", label="linux"), common.Label(service_name="client", label="x")]
        destination = common.Address(service_name="clientService")
        fields: dict[str, Any] = {"group_name": "group", "required_labels": label, "destination": destination}
        other_source = broadcast(2, **fields)
        other_source.source.service_name = "other"
        others = [
            other_source,
            broadcast(3, **{**fields, "required_labels": label[:1]}),
            broadcast(4, **{**fields, "destination": common.Address(service_name="other")}),
            broadcast(5, **{**fields, "group_name": "another"}),
            broadcast(6, **{**fields, "group_name": ""}),
        ]
        await self.store.create_broadcast(broadcast(0, **fields), 10)
        for other in others:
            await self.store.create_broadcast(other, 10)
        self.assertEqual(sorted(await self.active()), [0, 2, 3, 4, 5, 6])
        await self.store.create_broadcast(broadcast(1, **{**fields, "required_labels": label[::-1]}), 10)
        self.assertEqual(sorted(await self.active()), [1, 2, 3, 4, 5, 6])
        [one] = [
            each for each in await self.store.active_broadcasts() if each.broadcast.broadcast_id == broadcast_id(1)
        ]
        self.assertEqual((one.broadcast.group_name, len(one.broadcast.required_labels)), ("group", 2))

    # -- ours

    async def refused(self, awaitable: Any, kind: type[Exception]) -> Exception:
        """The error that comes of it."""
        try:
            await awaitable
        except kind as error:
            return error
        raise AssertionError(f"{kind.__name__} was not raised")

    async def test_what_cannot_be_created(self) -> None:
        """A second one of an id, and what no column holds."""
        await self.store.create_broadcast(broadcast(0), 8)
        await self.refused(self.store.create_broadcast(broadcast(0), 8), AlreadyExists)
        sourceless = broadcast(1)
        sourceless.ClearField("source")
        for bad, limit in [
            (sourceless, 1),
            (broadcast(1, message_type="x" * 129), 1),
            (broadcast(1), UNLIMITED + 1),
            (broadcasts.Broadcast(broadcast_id=b"short", source=sourceless.source), 1),
        ]:
            await self.refused(self.store.create_broadcast(bad, limit), InvalidRecord)
        await self.refused(self.store.allocate_broadcast(broadcast_id(7), 0.5, 0), NotFound)
        self.assertEqual(await self.active(), {0: 0})

    async def test_a_share_is_never_overdrawn(self) -> None:
        """Neither by calls that come together, nor by one with many sends; and each send that fails is alone."""
        for client_id in (C1, C2, C3):
            await self.add_client(client_id)
        await self.store.create_broadcast(broadcast(0), 2)
        share = await self.allocate(0)
        sends = [send(number, 0, share, one) for number, one in enumerate((C1, C2, C3), 1)]
        outcomes = await self.store.save_broadcast_messages(sends)
        self.assertEqual([outcome is None for outcome in outcomes].count(True), 2)
        [error] = [outcome for outcome in outcomes if outcome is not None]
        self.assertIsInstance(error, NotSent)
        self.assertIn("is full", str(error))
        self.assertEqual(len(await self.store.sent_broadcasts([C1, C2, C3])), 2)

    async def test_no_client_is_sent_it_twice(self) -> None:
        """The second time fails, and counts for nothing."""
        await self.add_client()
        await self.store.create_broadcast(broadcast(0), 2)
        share = await self.allocate(0)
        await self.save(1, 0, share)
        await self.refused(self.save(2, 0, share), AlreadyExists)
        await self.refused(self.save(3, 0, share, C2), NotFound)
        self.assertEqual(await self.store.pending_message_count([C1, C2]), 1)
        await self.store.clean_up_allocation(broadcast_id(0), share.allocation_id, 1)
        self.assertEqual(await self.active(), {0: 1})

    async def test_a_share_expires(self) -> None:
        """And the sweep gives it back, with what was sent on it."""
        await self.add_client()
        await self.add_client(C2)
        await self.store.create_broadcast(broadcast(0), 8)
        share = await self.allocate(0)
        await self.save(1, 0, share)
        self.clock.advance(300)
        error = await self.refused(self.save(2, 0, share, C2), NotSent)
        self.assertIn("is expired", str(error))
        self.assertEqual(await self.store.sweep_allocations(share.expiry_ns), 0)
        self.assertIsNone(await self.store.allocate_broadcast(broadcast_id(0), 1.0, self.clock.ns))
        self.assertEqual(await self.store.sweep_allocations(share.expiry_ns + 1), 1)
        self.assertEqual(await self.active(), {0: 1})
        self.assertEqual((await self.allocate(0)).limit, 7)
        await self.store.clean_up_allocation(broadcast_id(0), share.allocation_id, 1)
        self.assertEqual(await self.active(), {0: 1}, "it was given back already")

    async def test_giving_back_one_share_leaves_the_others_theirs(self) -> None:
        """What others hold is not handed out again because something was sent."""
        for client_id in (C1, C2, C3):
            await self.add_client(client_id)
        await self.store.create_broadcast(broadcast(0), 8)
        first, second = await self.allocate(0, 0.5), await self.allocate(0, 0.5)
        for number, client_id in enumerate((C1, C2, C3), 1):
            await self.save(number, 0, first, client_id)
        await self.store.clean_up_allocation(broadcast_id(0), first.allocation_id, 3)
        self.assertEqual((await self.allocate(0)).limit, 8 - 3 - second.limit)

    async def test_what_was_saved_counts(self) -> None:
        """Although the server that gives the share back has not heard of it."""
        await self.add_client()
        await self.store.create_broadcast(broadcast(0), 8)
        share = await self.allocate(0)
        await self.save(1, 0, share)
        await self.store.clean_up_allocation(broadcast_id(0), share.allocation_id, 0)
        self.assertEqual(await self.active(), {0: 1})

    async def test_it_is_sent_again_until_it_is_acknowledged(self) -> None:
        """Like any message: after 15 minutes."""
        await self.add_client()
        await self.store.create_broadcast(broadcast(0), UNLIMITED)
        contact_id = await self.record_contact()
        one = send(1, 0, None)
        await only(self.store.save_broadcast_messages([BroadcastSend(one.message, one.broadcast_id, b"", contact_id)]))
        [first] = await self.store.client_messages_for_processing([Claim(C1)])
        self.assertEqual(first, [])
        self.clock.advance(15 * 60)
        [[again]] = await self.store.client_messages_for_processing([Claim(C1)])  # type: ignore[misc]
        self.assertEqual(again.message_id, message_id(1))

    async def test_pause_and_resume(self) -> None:
        """What was sent stays counted; whoever holds a share can use it no more."""
        await self.add_client()
        await self.add_client(C2)
        await self.store.create_broadcast(broadcast(0), 8)
        share = await self.allocate(0)
        await self.save(1, 0, share)
        await self.store.pause_broadcasts([broadcast_id(0), broadcast_id(7)])
        self.assertEqual(await self.active(), {})
        await self.refused(self.save(2, 0, share, C2), NotSent)
        await self.store.pause_broadcasts([broadcast_id(0)])
        await self.store.resume_broadcasts([broadcast_id(0), broadcast_id(7)])
        self.assertEqual(await self.active(), {0: 1})
        self.assertEqual((await self.allocate(0)).limit, 7)
        await self.store.disable_broadcasts([broadcast_id(0)])
        await self.store.resume_broadcasts([broadcast_id(0)])
        self.assertEqual(await self.active(), {})
        await self.store.pause_broadcasts([broadcast_id(0)])
        await self.store.resume_broadcasts([broadcast_id(0)])
        self.assertEqual(await self.active(), {}, "disabled is for ever")

    async def test_errors_are_counted(self) -> None:
        """By what became of the messages."""
        for client_id in (C1, C2, C3):
            await self.add_client(client_id)
        await self.store.create_broadcast(broadcast(0), UNLIMITED, max_errors=2)
        await self.store.create_broadcast(broadcast(1), UNLIMITED)
        [limited, other] = await self.store.active_broadcasts()
        self.assertEqual((limited.max_errors, other.max_errors), (2, 0))
        for number, client_id in enumerate((C1, C2, C3), 1):
            await self.save(number, 0, None, client_id)
        await self.store.set_message_results([ResultUpdate(message_id(number), failure(START)) for number in (1, 3)])
        self.assertEqual(await self.store.broadcast_errors([broadcast_id(0), broadcast_id(1)]), {broadcast_id(0): 2})
        self.assertEqual(await self.store.broadcast_errors([]), {})
