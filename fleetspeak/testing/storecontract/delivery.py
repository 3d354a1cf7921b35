"""Delivery: claims of clients, their acknowledgements, and overdue messages for server services."""

from __future__ import annotations

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.pb import common
from fleetspeak.records import Ack, Claim, Exchange, ResultUpdate
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    C3,
    MINUTE,
    SECOND,
    StoreCase,
    failure,
    from_client,
    message_id,
    numbers,
    success,
    timestamp,
    to_client,
)


class DeliveryContract(StoreCase):
    """Who gets which message when."""

    async def claim(
        self, limit: int = 100, tokens: dict[str, int] | None = None, client_id: ClientId = C1
    ) -> list[common.Message]:
        """Claim messages for one client."""
        [claimed] = await self.store.client_messages_for_processing([Claim(client_id, limit, tokens)])
        assert not isinstance(claimed, StoreError), claimed
        return claimed

    # -- claims

    async def test_17_a_message_comes_as_it_was_sent(self) -> None:
        """17: with source_message_id and validation info, and without what it had not."""
        await self.add_client()
        message = common.Message(
            message_id=message_id(1),
            source=common.Address(service_name="TestServiceName"),
            source_message_id=b"omid 2",
            destination=common.Address(client_id=C1, service_name="TestServiceName"),
            creation_time=timestamp(100_000),
        )
        message.validation_info.tags["result"] = "Valid"
        await self.store.store_messages([message])
        self.clock.set(300_000)
        self.assertEqual(await self.claim(10), [message])

    async def test_18_limits(self) -> None:
        """18: limits in all and by service; each message is handed out once."""
        await self.add_client()
        await self.store.store_messages([to_client(number, service="TestService1") for number in range(100)])
        await self.store.store_messages([to_client(number, service="TestService2") for number in range(100, 200)])
        seen: list[int] = []
        for service in ("TestService1", "TestService2"):
            claimed = await self.claim(10, {service: 5})
            self.assertEqual([message.destination.service_name for message in claimed], [service] * 5)
            seen += numbers(claimed)
        claimed = await self.claim(10)
        self.assertEqual(len(claimed), 10)
        seen += numbers(claimed)
        for _ in range(20):
            seen += numbers(await self.claim(10))
        self.assertEqual(await self.claim(10), [])
        self.assertEqual(sorted(seen), list(range(200)))

    async def test_oldest_first(self) -> None:
        """By creation time, to the nanosecond, then by message id."""
        later = to_client(0, created=50)
        later.creation_time.nanos = 1
        stored = [later, to_client(2, created=50), to_client(1, created=50), to_client(9, created=49.5), to_client(3)]
        await self.store.store_messages(stored)
        self.assertEqual(numbers(await self.claim(2)), [3, 9])
        self.assertEqual(numbers(await self.claim()), [1, 2, 0])

    async def test_tokens(self) -> None:
        """A service gets no more than its tokens, one without tokens nothing, and nobody waits behind it."""
        services = ["none", "none", "two", "two", "two", "many", "none", "many", "unknown", "many", "two"]
        stored = [to_client(number, service=service, created=number + 1) for number, service in enumerate(services)]
        await self.store.store_messages(stored)
        tokens = {"none": 0, "two": 2, "many": 2**64 - 1, "unused": 7}
        self.assertEqual(numbers(await self.claim(4, tokens)), [2, 3, 5, 7])
        self.assertEqual(await self.claim(4, {}), [])
        self.assertEqual(await self.claim(0), [])
        self.assertEqual(numbers(await self.claim(100)), [0, 1, 4, 6, 8, 9, 10])

    async def test_nobody_waits_behind_a_service_without_tokens(self) -> None:
        """However many messages wait in front."""
        await self.store.store_messages([to_client(n, service=f"full{n % 3}", created=n + 1) for n in range(300)])
        await self.store.store_messages([to_client(n, service="free", created=1000) for n in range(300, 304)])
        self.assertEqual(numbers(await self.claim(3, {"free": 9, "full1": 1})), [1, 300, 301])

    async def test_due_at_once_and_again_after_fifteen_minutes(self) -> None:
        """A new message can be claimed in the very moment it was stored, and again when its time has come."""
        await self.store.store_messages([to_client(1)])
        self.assertEqual(numbers(await self.claim()), [1])
        self.clock.advance(15 * 60 - 0.000001)
        self.assertEqual(await self.claim(), [])
        self.clock.advance(0.000001)
        self.assertEqual(await self.claim(), [to_client(1)])
        self.assertEqual(await self.claim(), [])

    async def test_claims_of_many_clients(self) -> None:
        """Each gets its own, in the order of the claims; two claims of one client share what there is."""
        await self.store.store_messages([to_client(number) for number in range(5)])
        await self.store.store_messages([to_client(number, C2) for number in range(5, 8)])
        nobody = [Claim(ClientId(bytes([77, *number.to_bytes(7, "big")]))) for number in range(70)]
        claimed = await self.store.client_messages_for_processing([Claim(C1, 2), Claim(C2), *nobody, Claim(C1, 2)])
        self.assertEqual([numbers(one) for one in claimed], [[0, 1], [5, 6, 7], *[[]] * 70, [2, 3]])

    async def test_clients_for_which_messages_are_due(self) -> None:
        """Whoever has a stream and a notification that got lost is found by a look for due messages."""
        for client_id in (C1, C2, C3):
            await self.add_client(client_id)
        await self.store.store_messages([to_client(1), to_client(2), to_client(3, C3), from_client(4, C2)])
        self.assertEqual(await self.store.clients_with_due_messages([C3, C2, C1, C1]), [C3, C1])
        self.assertEqual(await self.store.clients_with_due_messages([C2]), [])
        self.assertEqual(await self.store.clients_with_due_messages([]), [])
        await self.claim(1)
        self.assertEqual(await self.store.clients_with_due_messages([C1]), [C1], "another one is left")
        await self.claim(1)
        self.assertEqual(await self.store.clients_with_due_messages([C1]), [])
        self.clock.advance(15 * MINUTE / SECOND)
        self.assertEqual(await self.store.clients_with_due_messages([C1]), [C1], "nobody has confirmed them")
        await self.store.acknowledge([Ack(C1, [message_id(1), message_id(2)])])
        self.assertEqual(await self.store.clients_with_due_messages([C1, C2, C3]), [C3])

    async def test_a_claim_without_client(self) -> None:
        """It fails alone."""
        bad, good = await self.store.client_messages_for_processing([Claim(ClientId(b"")), Claim(C1)])
        self.assertIsInstance(bad, StoreError)
        self.assertEqual(good, [])

    async def test_a_claim_does_not_outgrow_a_contact(self) -> None:
        """What cannot be sent in one contact waits for the next; a single message is never too large."""
        stored = [to_client(number, created=number + 1) for number in range(4)]
        for message, mib in zip(stored, (15, 2, 10, 6), strict=True):
            message.data.value = bytes(mib << 20)
        for message in stored:
            await self.store.store_messages([message])
        self.assertEqual([numbers(await self.claim()) for _ in range(4)], [[0], [1, 2], [3], []])

    async def test_die_is_processed_when_it_is_claimed(self) -> None:
        """A client that is told to die cannot confirm it."""
        die = to_client(1, service="system")
        die.message_type = "Die"
        other = to_client(2, service="system")
        await self.store.store_messages([die, other])
        self.assertEqual(await self.claim(), [die, other])
        self.assertEqual(await self.result_of(message_id(1)), success(100_000))
        self.assertEqual(numbers(await self.store.pending_messages([C1])), [2])

    # -- acknowledgements

    async def acknowledge(self, client_id: ClientId, *acknowledged: int) -> None:
        """Acknowledge messages of these numbers."""
        ack = Ack(client_id, [message_id(number) for number in acknowledged])
        self.assertEqual(await self.store.acknowledge([ack]), [None])

    async def test_acknowledged_messages_are_processed(self) -> None:
        """They have a result, no payload, and do not come again; unknown ids and repeats do not matter."""
        await self.store.store_messages([to_client(1), to_client(2)])
        await self.acknowledge(C1, 1, 1, 99)
        self.clock.advance(3600)
        await self.acknowledge(C1, 1)
        self.assertEqual(await self.result_of(message_id(1)), success(100_000))
        [message] = await self.store.get_messages([message_id(1)], want_data=True)
        self.assertFalse(message.HasField("data"))
        self.assertEqual(numbers(await self.claim()), [2])
        await self.acknowledge(C1)

    async def test_a_result_is_not_acknowledged_away(self) -> None:
        """A message that failed stays failed."""
        await self.store.store_messages([to_client(1)])
        await self.store.set_message_results([ResultUpdate(message_id(1), failure(5), C1)])
        await self.acknowledge(C1, 1)
        self.assertEqual(await self.result_of(message_id(1)), failure(5))

    async def test_only_the_addressed_client_acknowledges(self) -> None:
        """Others' acks, and acks of messages for server services, are passed over."""
        await self.store.store_messages([to_client(1), from_client(2)])
        await self.acknowledge(C2, 1, 2)
        await self.acknowledge(C1, 2)
        self.assertEqual(await self.store.message_results([message_id(1), message_id(2)]), {})
        both = [Ack(C2, [message_id(1)]), Ack(C1, [message_id(1)])]
        self.assertEqual(await self.store.acknowledge(both), [None, None])
        self.assertFalse(await self.is_pending(message_id(1)))

    async def test_any_client_acknowledges_a_rekey_request(self) -> None:
        """The one that was asked has a new id by then; the type alone, or the source alone, is not enough."""
        rekey, forged, other = to_client(1, service="system"), to_client(2, service="system"), to_client(3)
        rekey.message_type = forged.message_type = "RekeyRequest"
        rekey.source.service_name = other.source.service_name = "system"
        await self.store.store_messages([rekey, forged, other])
        await self.acknowledge(C2, 1, 2, 3)
        self.assertEqual(numbers(await self.store.pending_messages([C1])), [2, 3])

    async def test_flags_survive_both_ways(self) -> None:
        """Priority, background and blocklisting: of what a client claims, and of what comes to a service again."""
        await self.add_client()
        for number, (priority, background, blocklisted) in enumerate(
            (p, b, s) for p in common.Message.Priority.values() for b in (False, True) for s in (False, True)
        ):
            to, of = to_client(2 * number), from_client(2 * number + 1)
            for message in (to, of):
                message.priority, message.background = priority, background
                message.is_blocklisted_source = blocklisted
            await self.store.store_messages([to])
            [exchanged] = await self.store.exchange([Exchange([of], claim=Claim(C1))])
            assert not isinstance(exchanged, StoreError)
            self.assertEqual(list(exchanged.messages), [to])
            self.assertEqual(await self.store.pending_messages([C1], 0, 0, True), [to])
            await self.acknowledge(C1, 2 * number)
            for _ in range(3):
                self.clock.advance(3600)
                self.assertEqual(await self.store.overdue_messages(10), [of])
            await self.store.set_message_results([ResultUpdate(message_id(2 * number + 1), success(1))])
            done, processed = await self.store.get_messages([message_id(2 * number), message_id(2 * number + 1)], True)
            for one in (done, processed):
                kept = (one.priority, one.background, one.is_blocklisted_source)
                self.assertEqual(kept, (priority, background, blocklisted))

    # -- messages for server services

    async def test_19_overdue(self) -> None:
        """19: a message for a server service comes when its time has come, exactly as it was stored."""
        await self.add_client()
        message = from_client(1)
        await self.store.store_messages([message])
        self.assertEqual(await self.store.overdue_messages(10), [])
        self.clock.advance(121)
        self.assertEqual(await self.store.overdue_messages(10), [message])
        await self.store.set_message_results([ResultUpdate(message_id(1), success(7))])
        self.clock.advance(10**6)
        self.assertEqual(await self.store.overdue_messages(10), [])

    async def test_overdue_claims_put_off(self) -> None:
        """Each claim puts the next time off further: 1 min x 1.1^c x (1 + u) after the c-th one."""
        await self.store.store_messages([from_client(1)])
        start = self.clock.ns
        self.assertEqual(await self.store.next_overdue(), start + int(1.5 * MINUTE))
        for count in range(1, 4):
            due = await self.store.next_overdue()
            assert due is not None
            self.clock.ns = due
            self.assertEqual(numbers(await self.store.overdue_messages(10)), [1])
            self.assertEqual(await self.store.overdue_messages(10), [])
            following = await self.store.next_overdue()
            assert following is not None
            self.assertLess(abs(following - due - 1.5 * MINUTE * 1.1**count), 2000)

    async def test_overdue_limit_and_order(self) -> None:
        """The longest overdue ones are taken, and come oldest first."""
        for number, created in ((3, 10), (1, 30), (2, 20)):
            await self.store.store_messages([from_client(number, created=created)])
            self.clock.advance(1)
        self.clock.advance(3600)
        self.assertEqual(numbers(await self.store.overdue_messages(2)), [3, 1])
        self.assertEqual(numbers(await self.store.overdue_messages(2)), [2])

    async def test_overdue_messages_do_not_outgrow_the_memory(self) -> None:
        """What is too large together comes by and by."""
        for number in range(3):
            message = from_client(number)
            message.data.value = bytes(9 << 20)
            await self.store.store_messages([message])
            self.clock.advance(1)
        self.clock.advance(3600)
        self.assertEqual([numbers(await self.store.overdue_messages(9)) for _ in range(4)], [[0], [1], [2], []])

    async def test_next_overdue_knows_of_server_services_only(self) -> None:
        """None without any; messages for clients do not count."""
        self.assertIsNone(await self.store.next_overdue())
        await self.store.store_messages([to_client(1)])
        self.assertIsNone(await self.store.next_overdue())
        done = from_client(2)
        done.result.CopyFrom(success(1))
        await self.store.store_messages([done])
        self.assertIsNone(await self.store.next_overdue())

    async def test_messages_for_clients_are_not_overdue(self) -> None:
        """And messages for server services are not claimed by the client they come from."""
        await self.store.store_messages([to_client(1), from_client(2)])
        self.clock.advance(10**6)
        self.assertEqual(numbers(await self.store.overdue_messages(10)), [2])
        self.assertEqual(numbers(await self.claim()), [1])
        self.assertEqual(await self.store.message_results([MessageId(b"x" * 32)]), {})
