"""Many calls at a time: they may be written together, but nobody notices."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from fleetspeak.errors import InvalidRecord, NotFound, StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.records import Ack, Claim, ClientData, Contact, Exchange, Exchanged, ResultUpdate
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    StoreCase,
    from_client,
    message_id,
    numbers,
    poll,
    success,
    to_client,
)


class ConcurrencyContract(StoreCase):
    """Calls that are made before others have come back."""

    async def test_one_bad_caller_fails_alone(self) -> None:
        """Group commit: whoever asks for something impossible, the others do not notice."""
        await self.add_client()
        calls: list[Deferred[list[Exchanged | StoreError]]] = []
        for number in range(30):
            client_id = C2 if number % 7 == 3 else C1  # C2 is unknown
            calls.append(self.store.exchange([Exchange([from_client(number)], poll(client_id))]))
        outcomes = [outcome for [outcome] in await gatherResults(calls)]
        failed = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, NotFound)]
        self.assertEqual(failed, [3, 10, 17, 24])
        contact_ids = [outcome.contact_id for outcome in outcomes if isinstance(outcome, Exchanged)]
        self.assertEqual(len(set(contact_ids)), 26)
        self.assertEqual(len(await self.store.client_contacts(C1, 0, 100)), 26)
        with self.assertRaises(NotFound):
            await self.store.get_messages([message_id(3)], want_data=False)

    async def test_bad_and_good_calls_that_fail_as_a_whole(self) -> None:
        """The same for calls without lists of outcomes."""
        good = [self.store.store_messages([from_client(number)]) for number in range(5)]
        unknown_contact = _error(self.store.store_messages([from_client(10)], "77"))
        more = [self.store.store_messages([from_client(number)]) for number in range(5, 9)]
        await gatherResults([*good, *more])
        self.assertIsInstance(await unknown_contact, NotFound)
        everything = [message_id(number) for number in range(9)]
        self.assertEqual(len(await self.store.get_messages(everything, want_data=False)), 9)

    async def test_each_message_is_claimed_once(self) -> None:
        """However many claim at the same time."""
        await self.store.store_messages([to_client(number) for number in range(100)])
        calls = [self.store.client_messages_for_processing([Claim(C1, 7)]) for _ in range(20)]
        claimed = [one for [outcome] in await gatherResults(calls) for one in numbers(outcome)]
        self.assertEqual(sorted(claimed), list(range(100)))

    async def test_everything_at_once(self) -> None:
        """All the operations at a time; each caller gets the answer to what it asked."""
        clients = [ClientId(number.to_bytes(8, "big")) for number in range(1, 21)]
        await gatherResults([self.store.add_client(client_id, ClientData(client_id)) for client_id in clients])
        await self.store.store_messages([to_client(n, client_id) for n, client_id in enumerate(clients)])
        exchanges = [
            self.store.exchange([Exchange([from_client(100 + n)], poll(client_id), claim=Claim(client_id, 1))])
            for n, client_id in enumerate(clients)
        ]
        data = [self.store.client_data([client_id, C1]) for client_id in clients]
        contacts = [self.store.record_contacts([poll(client_id)]) for client_id in clients]
        updates = [self.store.set_message_results([ResultUpdate(message_id(999), success(1))]) for _ in clients]
        results = [self.store.message_results([message_id(n)]) for n, _ in enumerate(clients)]
        for n, [exchanged] in enumerate(await gatherResults(exchanges)):
            assert isinstance(exchanged, Exchanged)
            self.assertEqual(numbers(exchanged.messages), [n])
        for client_id, known in zip(clients, await gatherResults(data), strict=True):
            self.assertEqual(known[client_id].key, client_id)
        self.assertEqual(len({contact_id for [contact_id] in await gatherResults(contacts)}), 20)
        await gatherResults(updates)
        self.assertEqual(await gatherResults(results), [{}] * 20)
        acks = [self.store.acknowledge([Ack(client_id, [message_id(n)])]) for n, client_id in enumerate(clients)]
        self.assertEqual(await gatherResults(acks), [[None]] * 20)
        self.assertEqual(await self.store.pending_message_count(clients), 0)

    async def test_closing_finishes_what_was_accepted(self) -> None:
        """And then nothing more is accepted."""
        calls = [self.store.store_messages([from_client(number)]) for number in range(50)]
        closing = self.store.close()
        self.assertEqual(await gatherResults(calls), [None] * 50)
        await closing
        with self.assertRaises(StoreError):
            await self.store.store_messages([from_client(50)])

    async def test_record_contacts_in_order(self) -> None:
        """Outcomes are in the order of the contacts; the last contact of a client is what is shown of it."""
        await self.add_client()
        contacts = [Contact(C1, number, 0, f"127.0.0.1:{number}") for number in range(10)]
        strange = Contact(C1, 2**64, 0, "")
        outcomes = await self.store.record_contacts([*contacts[:5], strange, poll(C2), *contacts[5:]])
        self.assertIsInstance(outcomes.pop(5), InvalidRecord)
        self.assertIsInstance(outcomes.pop(5), NotFound)
        entries = await self.store.client_contacts(C1, 0, 100)
        self.assertEqual([f"{entry.row:x}" for entry in entries], outcomes)
        self.assertEqual([entry.contact for entry in entries], contacts)
        [client] = await self.store.list_clients([C1])
        self.assertEqual(client.last_contact_address, "127.0.0.1:9")

    async def test_hot_reads_of_nothing(self) -> None:
        """Asking for nothing, or for the unknown, is no error."""
        self.assertEqual(await self.store.client_data([]), {})
        self.assertEqual(await self.store.client_data([C1]), {})
        self.assertEqual(await self.store.message_results([]), {})
        self.assertEqual(await self.store.message_results([MessageId(b"x" * 32)]), {})
        self.assertEqual(await self.store.acknowledge([]), [])
        self.assertEqual(await self.store.record_contacts([]), [])
        await self.store.store_messages([])


async def _error(call: Deferred[None]) -> BaseException | None:
    """What a call fails with."""
    caught: list[Failure] = []
    await call.addErrback(caught.append)
    return caught[0].value if caught else None
