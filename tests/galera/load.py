"""Load on several stores of one cluster, and the account of it: nothing lost, nothing twice, nothing unexplained."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, DeferredList

from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IStore
from fleetspeak.records import Claim, ClientData, Contact, Exchange
from fleetspeak.store.outcome import only
from fleetspeak.testing.storecontract.base import from_client, numbers, to_client

CLIENTS = [ClientId(bytes([9] * 7 + [n])) for n in range(6)]
"""They make contact with every server, so that all servers write the same rows, and want the same messages."""

FIRST_TO_CLIENTS = 1_000_000
"""Numbers of messages: below it they come from clients."""

CALLERS = 3
"""At a time, on each store."""

Ask = Callable[[str], list[tuple[object, ...]]]


class Load:
    """Exchanges of clients with all stores, while messages are inserted for these clients."""

    def __init__(self, stores: Sequence[IStore]) -> None:
        self._stores = stores
        self._exchanges = itertools.count(1)
        self._inserts = itertools.count(FIRST_TO_CLIENTS)
        self.contacts: dict[int, str] = {}
        """Contact ids of the exchanges that were confirmed, by number."""
        self.failed: dict[int, StoreError] = {}
        """Exchanges and insertions that were not."""
        self.inserted: set[int] = set()
        self.claimed: Counter[int] = Counter()

    async def begin(self) -> None:
        """Enrol the clients."""
        for client_id in CLIENTS:
            await self._stores[0].add_client(client_id, ClientData(b"key"))

    async def run(self, going: Callable[[], bool]) -> None:
        """Keep all callers busy as long as `going` says so."""
        callers = [Deferred.fromCoroutine(self._call(store, going)) for store in self._stores for _ in range(CALLERS)]
        for good, result in await DeferredList(callers, consumeErrors=True):
            if not good:
                result.raiseException()

    async def drain(self) -> None:
        """Take what is left."""
        for client_id in CLIENTS:
            while taken := await only(self._stores[0].client_messages_for_processing([Claim(client_id)])):
                self.claimed.update(numbers(taken))

    async def _call(self, store: IStore, going: Callable[[], bool]) -> None:
        while going():
            await self._insert(store)
            await self._exchange(store)

    async def _insert(self, store: IStore) -> None:
        number = next(self._inserts)
        try:
            await store.store_messages([to_client(number, CLIENTS[number % len(CLIENTS)])])
        except StoreError as error:
            self.failed[number] = error
        else:
            self.inserted.add(number)

    async def _exchange(self, store: IStore) -> None:
        number = next(self._exchanges)
        client_id = CLIENTS[number % len(CLIENTS)]
        contact = Contact(client_id, number, number, "peer:1")
        exchange = Exchange([from_client(number, client_id)], contact, claim=Claim(client_id, 3))
        try:
            exchanged = await only(store.exchange([exchange]))
        except StoreError as error:
            self.failed[number] = error
        else:
            self.contacts[number] = exchanged.contact_id
            self.claimed.update(numbers(exchanged.messages))

    def account(self, ask: Ask) -> list[str]:
        """What is wrong with what the database has, compared with what callers were told; nothing, one hopes."""
        wrong = []
        unknown = {number for number, error in self.failed.items() if "nothing was stored" not in str(error)}
        rows = ask("SELECT client_contact_id, sent_nonce FROM client_contacts")
        stored: dict[int, str] = {}
        for row, nonce in rows:
            number = int.from_bytes(nonce, "little")  # type: ignore[arg-type]
            if number in stored:
                wrong.append(f"exchange {number} was carried out twice")
            stored[number] = f"{row:x}"
        for number, contact_id in self.contacts.items():
            if stored.get(number) != contact_id:
                wrong.append(f"exchange {number} is {stored.get(number)}, and its caller was told {contact_id}")
        messages = {int.from_bytes(one, "big") for (one,) in ask("SELECT message_id FROM messages")}  # type: ignore[arg-type]
        wrong += [f"message {number} is lost" for number in {*self.contacts, *self.inserted} - messages]
        for number in (self.failed.keys() - unknown) & (stored.keys() | messages):
            wrong.append(f"{number} is there, and its caller was told that nothing was stored")
        wrong += [
            f"message {number} was given out {count} times" for number, count in self.claimed.items() if count > 1
        ]
        unaccounted = messages - self.claimed.keys() - {n for n in messages if n < FIRST_TO_CLIENTS}
        if len(unaccounted) > 3 * len(unknown):  # a claim whose outcome nobody knows took at most so many
            wrong.append(f"messages {sorted(unaccounted)} were taken, and given to nobody")
        return wrong

    def __str__(self) -> str:
        return (
            f"{len(self.contacts)} exchanges, {len(self.inserted)} messages inserted, {len(self.claimed)} given out, "
            f"{len(self.failed)} calls failed"
        )
