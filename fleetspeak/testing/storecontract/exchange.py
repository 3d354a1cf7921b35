"""Exchanges: all that a contact writes and takes, at once or not at all."""

from __future__ import annotations

from fleetspeak.errors import AlreadyExists, InvalidRecord, NotFound
from fleetspeak.ids import ClientId
from fleetspeak.records import Claim, ClientData, Contact, Exchange, Exchanged, Label
from fleetspeak.store.outcome import only
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    C3,
    StoreCase,
    from_client,
    message_id,
    numbers,
    poll,
    success,
    to_client,
)


class ExchangeContract(StoreCase):
    """One transaction, in a fixed order."""

    async def exchange(self, exchange: Exchange) -> Exchanged:
        """Carry out one exchange."""
        return await only(self.store.exchange([exchange]))

    async def test_all_of_a_first_contact(self) -> None:
        """Enrolment, contact, messages and claim, in this order."""
        done, waiting = from_client(1), from_client(2)
        done.ClearField("data")
        done.result.CopyFrom(success(9))
        await self.store.store_messages([to_client(3)])
        labels = frozenset([Label("client", "linux"), Label("client", "l" * 129)])
        exchanged = await self.exchange(
            Exchange([done, waiting], poll(), new_client=ClientData(b"key", labels), claim=Claim(C1))
        )
        self.assertEqual(exchanged.messages, [to_client(3)])
        known = await self.store.client_data([C1])
        self.assertEqual(known, {C1: ClientData(b"key", frozenset([Label("client", "linux")]))})
        [entry] = await self.store.client_contacts(C1, 0, 10)
        self.assertEqual((f"{entry.row:x}", entry.contact), (exchanged.contact_id, poll()))
        self.assertEqual(await self.result_of(message_id(1)), success(9))
        self.assertTrue(await self.is_pending(message_id(2)))
        # The links are there already, so making them again is a repeat.
        await self.store.link_messages_to_contact(exchanged.contact_id, [message_id(n) for n in (1, 2, 3)])

    async def test_a_client_that_is_known_is_not_changed(self) -> None:
        """Enrolling it again, as two servers may at once, is no error."""
        await self.store.add_client(C1, ClientData(b"key", frozenset([Label("client", "old")]), blacklisted=True))
        before = await self.store.client_data([C1])
        await self.exchange(
            Exchange(contact=poll(), new_client=ClientData(b"key", frozenset([Label("client", "new")])))
        )
        self.assertEqual(await self.store.client_data([C1]), before)

    async def test_another_key_is_refused(self) -> None:
        """Two keys may have the same client id; only the first is this client."""
        await self.add_client()
        other = Exchange([from_client(1)], poll(), new_client=ClientData(b"other key"))
        with self.assertRaises(AlreadyExists):
            await self.exchange(other)
        self.assertEqual(await self.store.client_contacts(C1, 0, 10), [])

    async def test_go_on_with_a_contact(self) -> None:
        """A record of a stream belongs to the contact of its start."""
        await self.add_client()
        contact_id = await self.record_contact()
        await self.store.store_messages([to_client(2)])
        exchanged = await self.exchange(Exchange([from_client(1)], contact_id=contact_id, claim=Claim(C1)))
        self.assertEqual((exchanged.contact_id, numbers(exchanged.messages)), (contact_id, [2]))
        self.assertEqual(len(await self.store.client_contacts(C1, 0, 10)), 1)

    async def test_without_any_contact(self) -> None:
        """Then nothing is linked."""
        exchanged = await self.exchange(Exchange([from_client(1)], claim=Claim(C1)))
        self.assertEqual((exchanged.contact_id, list(exchanged.messages)), ("", []))
        self.assertTrue(await self.is_pending(message_id(1)))

    async def test_an_exchange_that_fails_leaves_nothing(self) -> None:
        """Whichever of its parts it is that fails."""
        await self.store.store_messages([to_client(1)])
        bad_message = from_client(3)
        bad_message.ClearField("creation_time")
        no_client = ClientId(b"")
        for exchange, error in (
            (Exchange([from_client(2)], poll(), claim=Claim(C1)), NotFound),  # an unknown client
            (Exchange([from_client(2)], contact_id="77", claim=Claim(C1)), NotFound),
            (Exchange([from_client(2)], contact_id="zz"), InvalidRecord),
            (Exchange([from_client(2)], new_client=ClientData(b"key")), InvalidRecord),
            (Exchange([from_client(2), bad_message], poll(), new_client=ClientData(b"key")), InvalidRecord),
            (Exchange([from_client(2)], Contact(C1, -1, 0, ""), new_client=ClientData(b"key")), InvalidRecord),
            (Exchange([from_client(2)], poll(), new_client=ClientData(b"key"), claim=Claim(no_client)), InvalidRecord),
        ):
            [outcome] = await self.store.exchange([exchange])
            self.assertIsInstance(outcome, error)
        with self.assertRaises(NotFound):
            await self.store.get_messages([message_id(2)], want_data=False)
        self.assertEqual(await self.store.client_data([C1]), {})
        [claimed] = await self.store.client_messages_for_processing([Claim(C1)])
        self.assertEqual(numbers(claimed), [1])

    async def test_outcomes_are_in_order(self) -> None:
        """Those that fail are in the places of their requests; the others are carried out."""
        for client_id in (C1, C3):
            await self.add_client(client_id)
        await self.store.store_messages([to_client(11, C1), to_client(13, C3)])
        bad_message = from_client(4)
        bad_message.ClearField("creation_time")
        outcomes = await self.store.exchange(
            [
                Exchange([from_client(1)], poll(C1), claim=Claim(C1)),
                Exchange([from_client(2)], poll(C2), claim=Claim(C2)),
                Exchange([bad_message], poll(C1)),
                Exchange([from_client(3)], poll(C3), claim=Claim(C3)),
            ]
        )
        first, unknown, invalid, last = outcomes
        assert isinstance(first, Exchanged)
        assert isinstance(last, Exchanged)
        self.assertEqual((numbers(first.messages), numbers(last.messages)), ([11], [13]))
        self.assertIsInstance(unknown, NotFound)
        self.assertIsInstance(invalid, InvalidRecord)
        for client_id, exchanged in ((C1, first), (C3, last)):
            [entry] = await self.store.client_contacts(client_id, 0, 10)
            self.assertEqual(f"{entry.row:x}", exchanged.contact_id)
        self.assertTrue(await self.is_pending(message_id(3)))
        self.assertEqual(await self.store.exchange([]), [])

    async def test_the_same_message_in_two_exchanges(self) -> None:
        """A client that repeats itself on two connections at once: one message, the better result."""
        await self.add_client()
        done = from_client(1)
        done.result.CopyFrom(success(5))
        for outcome in await self.store.exchange(
            [Exchange([from_client(1)], poll()), Exchange([done], poll()), Exchange([from_client(1)], poll())]
        ):
            self.assertIsInstance(outcome, Exchanged)
        self.assertEqual(await self.result_of(message_id(1)), success(5))
        self.assertIsNone(await self.store.next_overdue())

    async def test_what_is_stored_is_a_snapshot(self) -> None:
        """Changing a message, or an outcome, later changes nothing that is stored."""
        message = to_client(1)
        storing = self.store.store_messages([message])
        message.data.value = b"changed"
        await storing
        [[claimed]] = await self.store.client_messages_for_processing([Claim(C1)])  # type: ignore[misc]
        self.assertEqual(claimed, to_client(1))
        claimed.Clear()
        self.assertEqual(await self.store.get_messages([message_id(1)], want_data=True), [to_client(1)])
