"""Retention: what is old is deleted in parts, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fleetspeak.errors import AlreadyExists, NotFound
from fleetspeak.ids import ClientId
from fleetspeak.pb import common, monitoring
from fleetspeak.records import (
    UNLIMITED,
    Ack,
    AuditCall,
    AuditFilter,
    ClientData,
    Exchange,
    Label,
    Prunable,
    Prune,
    RetryLimits,
)
from fleetspeak.store.outcome import only
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    C3,
    SECOND,
    StoreCase,
    from_client,
    message_id,
    poll,
    success,
    timestamp,
    to_client,
)
from fleetspeak.testing.storecontract.broadcasts import broadcast, broadcast_id, send

DAY = 86_400
NOW = 1_800_000_000
"""Seconds; a day in 2027."""

WEEK_AGO = (NOW - 7 * DAY) * SECOND


def usage(seconds: float) -> monitoring.ResourceUsageData:
    """What a client reports."""
    return monitoring.ResourceUsageData(
        scope="scope", pid=1, process_start_time=timestamp(1), data_timestamp=timestamp(seconds)
    )


class RetentionContract(StoreCase):
    """See the package.  Times are days before `NOW`."""

    async def prune(self, kind: Prunable, before_ns: int = WEEK_AGO, *, rows: int = 500) -> dict[str, int]:
        """Prune to the end; gives the rows by table."""
        total: Counter[str] = Counter()
        position: str | None = ""
        for _ in range(1000):
            pruned = await self.store.prune(Prune(kind, before_ns, position or "", rows))
            total.update(pruned.rows)
            self.assertNotIn(0, pruned.rows.values())
            position = pruned.position
            if position is None:
                return dict(total)
        raise AssertionError(f"no end is in sight of {kind}, at {position}")

    async def counted(self, kind: Prunable, before_ns: int = WEEK_AGO) -> dict[str, int]:
        """What a dry run counts."""
        total: Counter[str] = Counter()
        position: str | None = ""
        while position is not None:
            pruned = await self.store.prune(Prune(kind, before_ns, position, 2, dry_run=True))
            total.update(pruned.rows)
            position = pruned.position
        return dict(total)

    def days_ago(self, days: float) -> None:
        """Set the clock."""
        self.clock.set(NOW - days * DAY)

    async def store_processed(
        self, number: int, created: float, processed: float, client_id: ClientId = C1
    ) -> common.Message:
        """Store a message with a result, that was created and processed so many days ago."""
        message = from_client(number, client_id, created=NOW - created * DAY)
        message.result.CopyFrom(success(NOW - processed * DAY))
        await self.store.store_messages([message])
        return message

    async def there(self, numbers: Sequence[int]) -> list[int]:
        """Those of these messages that there are."""
        found = []
        for number in numbers:
            try:
                await self.store.get_messages([message_id(number)], False)
            except NotFound:
                continue
            found.append(number)
        return found

    async def clients(self) -> set[bytes]:
        """The ids of those there are."""
        return {client.client_id for client in await self.store.list_clients([])}

    # -- messages

    async def test_section_9_messages_by_age(self) -> None:
        """Datastore 9, with the published advice's 7 days: what is older goes, what is younger or pending stays."""
        await self.add_client()
        self.days_ago(30)
        pending = [to_client(1, created=NOW - 30 * DAY), from_client(2, created=NOW - 30 * DAY)]
        await self.store.store_messages(pending)
        self.days_ago(0)
        for number, created, processed in [
            (3, 30, 30),
            (4, 7.0001, 7.0001),
            (5, 6.9999, 6.9999),
            (6, 30, 1),
            (7, 0, 0),
        ]:
            await self.store_processed(number, created, processed)
        self.assertEqual(await self.counted(Prunable.MESSAGES), {"messages": 2})
        self.assertEqual(await self.there(range(1, 8)), [1, 2, 3, 4, 5, 6, 7])
        self.assertEqual(await self.prune(Prunable.MESSAGES), {"messages": 2})
        self.assertEqual(await self.there(range(1, 8)), [1, 2, 5, 6, 7])
        self.assertEqual(await self.store.get_messages([message_id(1), message_id(2)], True), pending)
        self.assertEqual(await self.prune(Prunable.MESSAGES), {})

    async def test_pending_messages_when_asked(self) -> None:
        """In so many words; with their payloads, and no others."""
        await self.add_client()
        self.days_ago(30)
        await self.store.store_messages([to_client(1, created=NOW - 30 * DAY), from_client(2, created=NOW - 30 * DAY)])
        self.days_ago(0)
        await self.store.store_messages([to_client(3, created=NOW)])
        await self.store_processed(4, 30, 30)
        expected = {"messages": 2, "pending_messages": 2}
        self.assertEqual(await self.counted(Prunable.PENDING_MESSAGES), expected)
        self.assertEqual(await self.prune(Prunable.PENDING_MESSAGES), expected)
        self.assertEqual(await self.there(range(1, 5)), [3, 4])
        self.assertEqual(await self.store.pending_message_count([C1]), 1)
        self.assertIsNone(await self.store.next_overdue())

    async def test_dead_letters(self) -> None:
        """They have a result, and a payload: both go, when the result is old."""
        await self.add_client()
        self.days_ago(30)
        await self.store.store_messages([from_client(1, created=NOW - 30 * DAY)])
        self.clock.advance(3600)
        await self.store.overdue_messages(10, limits=RetryLimits(max_attempts=1))
        self.assertEqual(await self.store.dead_message_counts(), {"TestServiceName": 1})
        self.days_ago(0)
        self.assertEqual(await self.prune(Prunable.PENDING_MESSAGES), {})
        expected = {"messages": 1, "pending_messages": 1}
        self.assertEqual(await self.counted(Prunable.MESSAGES), expected)
        self.assertEqual(await self.prune(Prunable.MESSAGES), expected)
        self.assertEqual(await self.store.dead_message_counts(), {})

    async def test_a_creation_time_in_the_future(self) -> None:
        """A client can claim any time: then the result, which is ours, decides."""
        await self.add_client()
        self.days_ago(0)
        await self.store_processed(1, -1000, 30)
        await self.store_processed(2, -1000, 1)
        await self.store_processed(3, -0.5, 30)
        self.assertEqual(await self.prune(Prunable.MESSAGES), {"messages": 1})
        self.assertEqual(await self.there(range(1, 4)), [2, 3])

    async def test_in_parts(self) -> None:
        """Each part is bounded, says where to go on, and passes over what stays."""
        await self.add_client()
        self.days_ago(0)
        for number in range(1, 60):
            await self.store_processed(number, 30 if number % 3 else 1, 30 if number % 3 else 1)
        first = await self.store.prune(Prune(Prunable.MESSAGES, WEEK_AGO, rows=4))
        self.assertEqual(first.rows, {"messages": 4})
        self.assertTrue(first.position)
        self.assertEqual(await self.prune(Prunable.MESSAGES, rows=3), {"messages": 36})
        self.assertEqual(await self.there(range(1, 60)), list(range(3, 60, 3)))

    async def test_goes_on_where_it_ended(self) -> None:
        """A position that another process left; and one of another kind, or of nobody, which is the beginning."""
        await self.add_client()
        self.days_ago(0)
        for number in range(1, 10):
            await self.store_processed(number, 30, 30)
        first = await self.store.prune(Prune(Prunable.MESSAGES, WEEK_AGO, rows=4))
        assert first.position
        second = await self.store.prune(Prune(Prunable.MESSAGES, WEEK_AGO, first.position, rows=100))
        self.assertEqual((second.rows, second.position), ({"messages": 5}, None))
        for number in range(1, 10):
            await self.store_processed(number, 30, 30)
        deleted = 0
        for position in ("", "nobody's", "client_id=#7", "message_id=zz"):
            deleted += (await self.store.prune(Prune(Prunable.MESSAGES, WEEK_AGO, position, rows=2))).rows.get(
                "messages", 0
            )
        self.assertGreaterEqual(deleted, 2)

    async def test_late_acks(self) -> None:
        """Acks, results and links of messages that are gone are no errors, and bring nothing back."""
        await self.add_client()
        self.days_ago(0)
        await self.store_processed(1, 30, 30)
        message = to_client(2, created=NOW - 30 * DAY)
        await self.store.store_messages([message])
        await self.prune(Prunable.MESSAGES)
        await self.prune(Prunable.PENDING_MESSAGES)
        await only(self.store.acknowledge([Ack(C1, [message_id(1), message_id(2)])]))
        self.assertEqual(await self.store.message_results([message_id(1), message_id(2)]), {})
        self.assertEqual(await self.there([1, 2]), [])

    async def test_messages_of_clients_that_are_gone(self) -> None:
        """From them or to them, with a result, and old; others stay."""
        for client_id in (C1, C2):
            await self.add_client(client_id)
        self.days_ago(30)
        to_gone = to_client(3, C3, created=NOW - 30 * DAY)
        to_gone.result.CopyFrom(success(NOW - 30 * DAY))
        await self.store.store_messages([to_gone, to_client(4, C3, created=NOW - 30 * DAY)])
        await self.store_processed(1, 30, 30, C1)
        await self.store_processed(2, 30, 30, C3)
        await self.store_processed(5, 1, 1, C3)
        self.days_ago(0)
        self.assertEqual(await self.counted(Prunable.MESSAGES_OF_CLIENTS), {"messages": 2})
        self.assertEqual(await self.prune(Prunable.MESSAGES_OF_CLIENTS), {"messages": 2})
        self.assertEqual(await self.there(range(1, 6)), [1, 4, 5])

    # -- contacts and resource usage

    async def contacts_of(self, client_id: ClientId) -> list[int]:
        """The days ago of its contacts."""
        entries = await self.store.client_contacts(client_id, 0, 10_000)
        return [round(NOW - entry.time_ns / SECOND) // DAY for entry in entries]

    async def test_section_9_contacts_by_age(self) -> None:
        """With their links, also when one has more links than a part has rows."""
        await self.add_client()
        for days in (30, 8, 6):
            self.days_ago(days)
            contact_id = await self.record_contact()
            messages = [from_client(100 * days + n, created=NOW - days * DAY) for n in range(25)]
            await self.store.store_messages(messages, contact_id)
        self.days_ago(0)
        expected = {"client_contacts": 2, "client_contact_messages": 50}
        self.assertEqual(await self.counted(Prunable.CONTACTS), expected)
        self.assertEqual(await self.prune(Prunable.CONTACTS, rows=10), expected)
        self.assertEqual(await self.contacts_of(C1), [6])
        self.assertEqual(await self.store.pending_message_count([C1]), 0)
        self.assertEqual(await self.there([3000, 3024, 800, 600]), [3000, 3024, 800, 600])

    async def test_numbers_of_contacts_are_not_given_again(self) -> None:
        """A contact that was pruned is never taken for a newer one."""
        await self.add_client()
        self.days_ago(30)
        old = await self.record_contact()
        self.days_ago(0)
        await self.prune(Prunable.CONTACTS)
        new = await self.record_contact()
        self.assertNotEqual(old, new)
        [exchanged] = await self.store.exchange([Exchange([from_client(1)], contact_id=old)])
        self.assertIsInstance(exchanged, NotFound)

    async def test_section_9_resource_usage_by_age(self) -> None:
        """By when it was stored; also when one client has more than a part has rows."""
        for client_id, days in [(C1, 30), (C1, 6), (C2, 8), (C3, 1)]:
            if client_id not in await self.clients():
                await self.add_client(client_id)
            for number in range(12):
                self.clock.set(NOW - days * DAY + number // 2)
                await self.store.record_resource_usage(client_id, usage(1 + number))
        self.days_ago(0)
        expected = {"client_resource_usage_records": 24}
        self.assertEqual(await self.counted(Prunable.RESOURCE_USAGE), expected)
        self.assertEqual(await self.prune(Prunable.RESOURCE_USAGE, rows=5), expected)
        left = [len(await self.store.resource_usage(one, 0, NOW * SECOND)) for one in (C1, C2, C3)]
        self.assertEqual(left, [12, 0, 12])

    # -- broadcasts

    async def test_section_9_broadcasts_by_expiry(self) -> None:
        """Those that expired longer ago; with shares, labels, and who was sent them, also if these are many."""
        clients = [ClientId(number.to_bytes(8, "big")) for number in range(100, 115)]
        for client_id in clients:
            await self.add_client(client_id)
        self.days_ago(40)
        for number, days in [(0, 30), (1, 6), (2, -1)]:
            label = common.Label(service_name="client", label="linux")
            made = broadcast(number, expiration_time=timestamp(NOW - days * DAY), required_labels=[label])
            await self.store.create_broadcast(made, 100)
            share = await self.store.allocate_broadcast(broadcast_id(number), 1.0, self.clock.ns + 300 * SECOND)
            for index, client_id in enumerate(clients):
                await only(self.store.save_broadcast_messages([send(number * 100 + index, number, share, client_id)]))
        await self.store.create_broadcast(broadcast(3), UNLIMITED)
        self.days_ago(0)
        expected = {"broadcasts": 1, "broadcast_sent": 15, "broadcast_allocations": 1, "broadcast_labels": 1}
        self.assertEqual(await self.counted(Prunable.BROADCASTS), expected)
        self.assertEqual(await self.prune(Prunable.BROADCASTS, rows=4), expected)
        sent = await self.store.sent_broadcasts(clients[:1])
        self.assertEqual(sent, {clients[0]: [broadcast_id(1), broadcast_id(2)]})
        await self.store.clean_up_allocation(broadcast_id(0), share.allocation_id if share else b"", 1)
        self.assertEqual(await self.store.active_broadcast_ids(), [broadcast_id(2), broadcast_id(3)])

    async def test_broadcasts_that_have_ended(self) -> None:
        """Disabled or used up, and first seen so longer ago; a paused one has not ended."""
        await self.add_client()
        self.days_ago(30)
        for number, limit in [(0, 10), (1, 1), (2, 10), (3, 10), (4, UNLIMITED)]:
            await self.store.create_broadcast(broadcast(number), limit)
        share = await self.store.allocate_broadcast(broadcast_id(1), 1.0, self.clock.ns + 300 * SECOND)
        assert share is not None
        await only(self.store.save_broadcast_messages([send(1, 1, share)]))
        await self.store.clean_up_allocation(broadcast_id(1), share.allocation_id, 1)
        await self.store.disable_broadcasts([broadcast_id(0)])
        await self.store.pause_broadcasts([broadcast_id(2)])
        cutoff = self.clock.ns - 7 * DAY * SECOND
        self.assertEqual(await self.prune(Prunable.BROADCASTS, cutoff), {})
        self.clock.advance(6 * DAY)
        self.assertEqual(await self.prune(Prunable.BROADCASTS, cutoff + 6 * DAY * SECOND), {})
        self.clock.advance(2 * DAY)
        pruned = await self.prune(Prunable.BROADCASTS, cutoff + 8 * DAY * SECOND)
        self.assertEqual(pruned, {"broadcasts": 2, "broadcast_sent": 1})
        await self.store.resume_broadcasts([broadcast_id(2)])
        self.assertEqual(await self.store.active_broadcast_ids(), [broadcast_id(number) for number in (2, 3, 4)])

    # -- clients

    async def fill(self, client_id: ClientId, days: float, **data: bool) -> None:
        """A client whose last contact was so many days ago, with something of everything."""
        self.days_ago(days)
        labels = frozenset({Label("client", "linux"), Label("client", "x")})
        await self.store.add_client(client_id, ClientData(b"key", labels, **data))
        for number in range(7):
            exchange = Exchange(
                [from_client(int(days) * 100 + number, client_id, created=NOW - days * DAY)], poll(client_id)
            )
            await only(self.store.exchange([exchange]))
            await self.store.record_resource_usage(client_id, usage(1 + number))

    async def test_section_9_clients_by_last_contact(self) -> None:
        """With all that there is of them, in parts; those that are blacklisted stay so."""
        await self.fill(C1, 30)
        await self.fill(C2, 6)
        await self.fill(C3, 31, blacklisted=True)
        self.days_ago(30)
        await self.store.create_broadcast(broadcast(0), UNLIMITED)
        await only(self.store.save_broadcast_messages([send(1, 0, None, C1)]))
        self.days_ago(0)
        expected = {
            "clients": 1,
            "client_labels": 2,
            "client_contacts": 7,
            "client_resource_usage_records": 7,
            "broadcast_sent": 1,
        }
        counted = await self.counted(Prunable.CLIENTS)
        counted.pop("client_contact_messages", None)
        self.assertEqual(counted, expected)
        self.assertEqual(await self.prune(Prunable.CLIENTS, rows=3), {**expected, "client_contact_messages": 7})
        self.assertEqual(await self.clients(), {C2, C3})
        self.assertEqual(len(await self.contacts_of(C2)), 7)
        self.assertEqual(len(await self.store.resource_usage(C3, 0, NOW * SECOND)), 7)
        self.assertEqual(await self.store.sent_broadcasts([C1]), {})
        self.assertEqual(await self.there([3000, 3006]), [3000, 3006])

    async def test_a_client_that_comes_back(self) -> None:
        """It is enrolled anew, as if it had never been there."""
        await self.fill(C1, 30)
        self.days_ago(0)
        await self.prune(Prunable.CLIENTS)
        [refused] = await self.store.exchange([Exchange(contact=poll())])
        self.assertIsInstance(refused, NotFound)
        [exchanged] = await self.store.exchange([Exchange(contact=poll(), new_client=ClientData(b"key"))])
        self.assertTrue(exchanged.contact_id)  # type: ignore[union-attr]
        self.assertEqual(await self.contacts_of(C1), [0])
        with self.assertRaises(AlreadyExists):
            await self.store.add_client(C1, ClientData(b"key"))

    # -- the audit trail

    async def test_audit_trail_by_age(self) -> None:
        """So many entries at a time."""
        for days in (30, 20, 8, 6):
            self.days_ago(days)
            for _ in range(3):
                await only(self.store.begin_audit([AuditCall("me", "", "admin", "method", "")]))
        self.days_ago(0)
        expected = {"fleetspeak_audit": 9}
        first = await self.store.prune(Prune(Prunable.AUDIT, WEEK_AGO, rows=4, dry_run=True))
        self.assertEqual((first.rows, first.position), (expected, None))
        self.assertEqual(await self.prune(Prunable.AUDIT, rows=3), expected)
        self.assertEqual(len(await self.store.audit_entries(AuditFilter(), 100)), 3)

    # -- indexes and leases

    async def test_with_time_indexes(self) -> None:
        """They change nothing but the time it takes; a position from before is the beginning."""
        await self.add_client()
        self.days_ago(30)
        await self.store.store_messages([from_client(99, created=NOW - 30 * DAY)])
        for _ in range(5):
            await self.record_contact()
            await self.store.record_resource_usage(C1, usage(1))
        self.days_ago(0)
        await self.record_contact()
        for number in range(1, 31):
            await self.store_processed(number, 30 + number % 5 * 1e-7 if number % 2 else 1, 30 if number % 2 else 1)
        first = await self.store.prune(Prune(Prunable.MESSAGES, WEEK_AGO, rows=4))
        assert first.position
        await self.store.create_time_indexes()
        self.assertEqual(await self.store.create_time_indexes(), [])
        second = await self.store.prune(Prune(Prunable.MESSAGES, WEEK_AGO, first.position, rows=4))
        self.assertEqual(second.rows, {"messages": 4})
        self.assertEqual(await self.counted(Prunable.MESSAGES), {"messages": 7})
        self.assertEqual(await self.prune(Prunable.MESSAGES, rows=2), {"messages": 7})
        self.assertEqual(await self.there([*range(1, 31), 99]), [*range(2, 31, 2), 99])
        self.assertEqual(await self.prune(Prunable.CONTACTS, rows=2), {"client_contacts": 5})
        self.assertEqual(await self.prune(Prunable.RESOURCE_USAGE, rows=2), {"client_resource_usage_records": 5})
        self.assertEqual(await self.prune(Prunable.PENDING_MESSAGES), {"messages": 1, "pending_messages": 1})

    async def test_leases(self) -> None:
        """One holder at a time, until its time is over; what it leaves is for the next one."""
        self.days_ago(0)
        one, other = bytes(16), bytes(range(16))

        def until(seconds: float) -> int:
            return self.clock.ns + round(seconds * SECOND)

        self.assertEqual(await self.store.lease("prune", one, until(60)), "")
        self.assertIsNone(await self.store.lease("prune", other, until(60), "mine"))
        self.assertEqual(await self.store.lease("else", other, until(60)), "")
        self.clock.advance(59)
        self.assertEqual(await self.store.lease("prune", one, until(60), "as far as this"), "as far as this")
        self.clock.advance(59)
        self.assertIsNone(await self.store.lease("prune", other, until(60)))
        self.clock.advance(1)
        self.assertEqual(await self.store.lease("prune", other, until(60)), "as far as this")
        self.assertIsNone(await self.store.lease("prune", one, until(60)))
        self.assertEqual(await self.store.lease("prune", other, 0, "the end"), "the end")
        self.assertEqual(await self.store.lease("prune", one, until(60)), "the end")
