"""What operators look for: pages, counts, and changes (ours)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from fleetspeak.errors import InvalidRecord
from fleetspeak.ids import NO_CLIENT, ClientId, MessageId
from fleetspeak.interfaces import IOperatorStore
from fleetspeak.listings import (
    BroadcastState,
    ClientCounts,
    ClientFilter,
    Flag,
    ListedMessage,
    MessageCount,
    MessageFilter,
    MessageState,
    Span,
)
from fleetspeak.pb import broadcasts, common
from fleetspeak.records import (
    UNLIMITED,
    BroadcastSend,
    Claim,
    ClientData,
    Exchange,
    Label,
    ResultUpdate,
    RetryLimits,
)
from fleetspeak.store.checks import MAX_NAME, MAX_SETTING
from fleetspeak.store.outcome import only
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    C3,
    SECOND,
    StoreCase,
    failure,
    from_client,
    message_id,
    numbers,
    poll,
    success,
    timestamp,
    to_client,
    without_data,
)


class OperatorsContract(StoreCase):
    """`fleetspeak.interfaces.IOperatorStore`; skipped on a store that does not provide it."""

    @property
    def operators(self) -> Any:
        """The store as operators see it.  Skips the test, and no other one, if they do not."""
        found = IOperatorStore(self.store, None)
        if found is None:
            self.skipTest("this store has nothing for operators")
        return found

    # -- clients

    async def listed_clients(self, after: ClientId = NO_CLIENT, limit: int = 100, **wanted: Any) -> list[ClientId]:
        """The ids of a page of clients."""
        page = await self.operators.client_page(ClientFilter(**wanted), after, limit)
        return [ClientId(client.client_id) for client in page]

    async def test_operators_clients_by_pages(self) -> None:
        """By id, each with what a list of all clients has of it."""
        everybody = [ClientId(number.to_bytes(8, "big")) for number in range(1, 8)]
        for client_id in reversed(everybody):
            await self.store.add_client(client_id, ClientData(b"key", frozenset({Label("client", "linux")})))
        await self.record_contact(everybody[2])
        found: list[ClientId] = []
        while page := await self.listed_clients(found[-1] if found else NO_CLIENT, limit=3):
            found += page
        self.assertEqual(found, everybody)
        listed = {client.client_id: client for client in await self.store.list_clients([])}
        for client in await self.operators.client_page(ClientFilter(), NO_CLIENT, 100):
            self.assertEqual(client, listed[client.client_id])

    async def test_operators_clients_by_their_labels(self) -> None:
        """All of them must be there, each of its service."""
        linux, corp, other = Label("client", "linux"), Label("client", "corp"), Label("other", "linux")
        for client_id, labels in ((C1, {linux, corp}), (C2, {linux}), (C3, {other})):
            await self.store.add_client(client_id, ClientData(b"key", frozenset(labels)))
        self.assertEqual(await self.listed_clients(labels=(linux,)), [C1, C2])
        self.assertEqual(await self.listed_clients(labels=(linux, corp)), [C1])
        self.assertEqual(await self.listed_clients(labels=(other,)), [C3])
        self.assertEqual(await self.listed_clients(labels=(linux, other)), [])
        self.assertEqual(await self.listed_clients(labels=(linux,), limit=1), [C1])
        self.assertEqual(await self.listed_clients(labels=(linux,), limit=1, after=C1), [C2])

    async def test_operators_clients_by_contact_and_flag(self) -> None:
        """The span has its start and not its end."""
        for seconds, client_id in ((10, C1), (20, C2), (30, C3)):
            self.clock.set(seconds)
            await self.add_client(client_id)
        await self.store.blacklist_client(C2)
        self.assertEqual(await self.listed_clients(last_contact=Span(20 * SECOND, None)), [C2, C3])
        self.assertEqual(await self.listed_clients(last_contact=Span(None, 20 * SECOND)), [C1])
        self.assertEqual(await self.listed_clients(last_contact=Span(10 * SECOND, 30 * SECOND)), [C1, C2])
        self.assertEqual(await self.listed_clients(blacklisted=Flag.ONLY), [C2])
        self.assertEqual(await self.listed_clients(blacklisted=Flag.NONE), [C1, C3])
        self.assertEqual(await self.operators.client_counts(20 * SECOND), ClientCounts(3, 1, 2))

    async def test_operators_counts_of_nobody(self) -> None:
        """They are zeros."""
        self.assertEqual(await self.operators.client_counts(0), ClientCounts(0, 0, 0))

    async def test_operators_unblacklist(self) -> None:
        """The rest of the client stays; others, and the unknown, are passed over."""
        data = ClientData(b"key", frozenset({Label("client", "linux")}), blacklisted=True)
        await self.store.add_client(C1, data)
        await self.store.add_client(C2, data)
        await self.operators.unblacklist_clients([C1, C1, C3])
        found = await self.store.client_data([C1, C2])
        self.assertEqual(found, {C1: ClientData(b"key", data.labels), C2: data})
        await self.operators.unblacklist_clients([])

    async def test_operators_contacts_newest_first(self) -> None:
        """By pages, of one client."""
        await self.add_client()
        await self.add_client(C2)
        for seconds in range(5):
            self.clock.set(100 + seconds)
            await self.record_contact(C1)
            await self.record_contact(C2)
        first = await self.operators.contact_page(C1, None, 3)
        rest = await self.operators.contact_page(C1, first[-1].row, 3)
        self.assertEqual([one.time_ns // SECOND for one in first + rest], [104, 103, 102, 101, 100])
        self.assertEqual(sorted(first + rest), await self.store.client_contacts(C1, 0, 100))
        self.assertEqual(await self.operators.contact_page(C3, None, 3), [])

    # -- messages

    async def listed_messages(self, before: Any = None, limit: int = 100, **wanted: Any) -> list[ListedMessage]:
        """A page of messages."""
        found: list[ListedMessage] = await self.operators.message_page(MessageFilter(**wanted), before, limit)
        return found

    async def listed_numbers(self, **wanted: Any) -> list[int]:
        """The numbers of the messages that fit."""
        return numbers([one.message for one in await self.listed_messages(**wanted)])

    async def one_of_each_state(self) -> None:
        """Messages 1 to 5, each in the state of its number; all but the first of them of C1."""
        await self.add_client()
        await self.add_client(C2)
        contact_id = await self.record_contact()
        await self.store.store_messages([to_client(2, created=20)])
        await only(self.store.client_messages_for_processing([Claim(C1)]))
        await self.store.store_messages([to_client(1, C2, created=10, service="other")])
        done, failed, dead = (from_client(number, created=10 * number) for number in (3, 4, 5))
        done.result.CopyFrom(success(31))
        failed.result.CopyFrom(failure(41))
        await self.store.store_messages([done, failed, dead], contact_id)
        self.clock.advance(600)
        await self.store.overdue_messages(10, None, RetryLimits(max_attempts=1))

    async def test_operators_messages_by_pages(self) -> None:
        """The newest first; within one time by descending id."""
        for number, created in enumerate((5, 5, 5, 3, 5.5, 7)):
            await self.store.store_messages([from_client(number, created=created)])
        found: list[ListedMessage] = []
        while page := await self.listed_messages(found[-1].key if found else None, limit=2):
            found += page
        self.assertEqual(numbers([one.message for one in found]), [5, 4, 2, 1, 0, 3])
        self.assertEqual(found[0].message, without_data(from_client(5, created=7)))

    async def test_operators_states_of_messages(self) -> None:
        """Each message is in one, with what belongs to it."""
        await self.one_of_each_state()
        dead, failed, done, sent, waiting = await self.listed_messages()
        self.assertEqual([one.state.value for one in (waiting, sent, done, failed, dead)], [1, 2, 3, 4, 5])
        self.assertEqual([one.attempts for one in (waiting, sent, done, failed, dead)], [0, 1, 0, 0, 0])
        self.assertEqual(waiting.payload_size, len(b"Test data proto 1"))
        self.assertEqual((done.payload_size, failed.payload_size), (0, 0))
        self.assertEqual(dead.payload_size, len(b"Test data proto 5"))
        self.assertEqual((waiting.due_ns, done.due_ns, dead.due_ns), (100_000 * SECOND, None, None))
        self.assertEqual(sent.due_ns, (100_000 + 900) * SECOND)
        self.assertEqual(failed.message.result.failed_reason, "broken test message")
        for state in MessageState:
            if state is not MessageState.ANY:
                self.assertEqual(await self.listed_numbers(state=state), [state.value])
                self.assertEqual(await self.listed_numbers(state=state, client_id=C2), [1] if state.value == 1 else [])

    async def test_operators_messages_by_client(self) -> None:
        """From it and to it, each once, in one order."""
        await self.one_of_each_state()
        self.assertEqual(await self.listed_numbers(client_id=C1), [5, 4, 3, 2])
        self.assertEqual(await self.listed_numbers(client_id=C2), [1])
        self.assertEqual(await self.listed_numbers(client_id=C3), [])
        first, *_ = await self.listed_messages(client_id=C1, limit=1)
        self.assertEqual(await self.listed_numbers(client_id=C1, before=first.key, limit=2), [4, 3])

    async def test_operators_messages_by_service_type_and_time(self) -> None:
        """From or to the service; the span has its start and not its end."""
        await self.one_of_each_state()
        self.assertEqual(await self.listed_numbers(service="other"), [1])
        self.assertEqual(await self.listed_numbers(service="TestSource"), [2, 1])
        self.assertEqual(await self.listed_numbers(service="TestServiceName"), [5, 4, 3, 2])
        self.assertEqual(await self.listed_numbers(message_type="Test message type"), [5, 4, 3, 2, 1])
        self.assertEqual(await self.listed_numbers(message_type="other"), [])
        self.assertEqual(await self.listed_numbers(created=Span(20 * SECOND, 40 * SECOND)), [3, 2])
        self.assertEqual(await self.listed_numbers(created=Span(20 * SECOND + 1, 40 * SECOND + 1)), [4, 3])
        self.assertEqual(await self.listed_numbers(created=Span(None, 20 * SECOND), service="other"), [1])

    async def test_operators_counts_of_messages(self) -> None:
        """By service, type and state, with the oldest."""
        await self.one_of_each_state()
        await self.store.store_messages([to_client(7, C2, created=7, service="other"), to_client(8, C2, created=99)])
        kind = "Test message type"
        to_clients = [
            MessageCount("TestServiceName", True, kind, MessageState.WAITING, 1, 99),
            MessageCount("TestServiceName", True, kind, MessageState.SENT, 1, 20),
        ]
        others = [MessageCount("other", True, kind, MessageState.WAITING, 2, 7)]
        to_server = [
            MessageCount("TestServiceName", False, kind, MessageState.PROCESSED, 1, 30),
            MessageCount("TestServiceName", False, kind, MessageState.FAILED, 1, 40),
            MessageCount("TestServiceName", False, kind, MessageState.DEAD, 1, 50),
        ]
        counts = self.operators.message_counts
        self.assertEqual(await counts(MessageFilter()), [*to_server, *to_clients, *others])
        self.assertEqual(await counts(MessageFilter(service="other")), others)
        self.assertEqual(await counts(MessageFilter(client_id=C1)), [*to_server, to_clients[1]])
        self.assertEqual(await counts(MessageFilter(state=MessageState.DEAD)), to_server[2:])
        self.assertEqual(await counts(MessageFilter(message_type="none")), [])

    async def test_operators_messages_of_an_exchange(self) -> None:
        """What a contact takes and brings is its client's."""
        await self.add_client()
        await self.store.store_messages([to_client(1, created=1)])
        await only(self.store.exchange([Exchange([from_client(2, created=2)], poll(), claim=Claim(C1))]))
        self.assertEqual([one.state.value for one in await self.listed_messages(client_id=C1)], [1, 2])

    async def test_operators_cancel(self) -> None:
        """What is pending fails with the reason; others are passed over, a dead letter keeps its payload."""
        await self.one_of_each_state()
        asked = [message_id(number) for number in (1, 2, 3, 4, 5, 6, 1)]
        self.assertEqual(await self.operators.cancel_messages(asked, "no more"), 2)
        for number in (1, 2):
            self.assertEqual(
                await self.result_of(message_id(number)), failure(self.clock.ns / SECOND, "no more"), number
            )
        self.assertEqual(await self.listed_numbers(state=MessageState.FAILED), [4, 2, 1])
        self.assertEqual(await self.listed_numbers(state=MessageState.DEAD), [5])
        self.assertEqual(await only(self.store.client_messages_for_processing([Claim(C2)])), [])
        self.assertEqual(await self.operators.cancel_messages(asked, "again"), 0)
        self.assertEqual(await self.operators.cancel_messages([], "nothing"), 0)
        self.assertEqual(await self.store.retry_messages([MessageId(message_id(5))]), 1)

    # -- broadcasts

    async def new_broadcast(self, number: int, limit: int, **fields: Any) -> bytes:
        """Create a broadcast, which has a payload."""
        max_errors = fields.pop("max_errors", 0)
        broadcast = broadcasts.Broadcast(
            broadcast_id=number.to_bytes(8, "big"),
            source=common.Address(service_name=fields.pop("service", "greeter")),
            message_type="Greeting",
            **fields,
        )
        broadcast.data.value = b"payload"
        await self.store.create_broadcast(broadcast, limit, max_errors)
        return broadcast.broadcast_id

    async def broadcasts_in(
        self, state: BroadcastState, service: str = "", after: bytes = b"", limit: int = 100
    ) -> Any:
        """The numbers of the broadcasts in a state."""
        page = await self.operators.broadcast_page(state, service, after, limit)
        return [int.from_bytes(one.broadcast.broadcast_id, "big") for one in page]

    async def send_broadcast_to(
        self, broadcast_id: bytes, client_id: ClientId, number: int, allocation_id: bytes = b""
    ) -> None:
        """Send a broadcast to a client."""
        send = BroadcastSend(to_client(number, client_id), broadcast_id, allocation_id)
        self.assertEqual(await self.store.save_broadcast_messages([send]), [None])

    async def test_operators_broadcasts_and_their_states(self) -> None:
        """Each is in one, told by what there is of it."""
        self.clock.set(100)
        for client_id in (C1, C2):
            await self.add_client(client_id)
        await self.new_broadcast(1, 5)
        paused = await self.new_broadcast(2, 6, service="other")
        await self.store.pause_broadcasts([paused])
        complete = await self.new_broadcast(3, 1)
        allocation = await self.store.allocate_broadcast(complete, 1.0, 200 * SECOND)
        assert allocation is not None
        await self.send_broadcast_to(complete, C1, 31, allocation.allocation_id)
        await self.new_broadcast(4, 5, expiration_time=timestamp(99))
        await self.new_broadcast(5, 0)
        stopped = await self.new_broadcast(6, UNLIMITED, max_errors=1)
        await self.send_broadcast_to(stopped, C2, 61)
        await self.store.set_message_results([ResultUpdate(message_id(61), failure(99), C2)])
        await self.store.disable_broadcasts([stopped])
        for number, state in enumerate(list(BroadcastState)[1:], 1):
            self.assertEqual(await self.broadcasts_in(state), [number], state)
        self.assertEqual(await self.broadcasts_in(BroadcastState.ANY), [1, 2, 3, 4, 5, 6])
        self.assertEqual(await self.broadcasts_in(BroadcastState.ANY, "other"), [2])
        self.assertEqual(await self.broadcasts_in(BroadcastState.PAUSED, "greeter"), [])
        page = await self.operators.broadcast_page(BroadcastState.ANY, "", b"", 100)
        accounts = [(one.limit, one.sent, one.allocated) for one in page[:3]]
        self.assertEqual(accounts, [(5, 0, 0), (6, 0, 0), (1, 1, 0)])
        self.assertEqual((page[5].errors, page[5].max_errors), (1, 1))

    async def test_operators_broadcasts_by_pages(self) -> None:
        """By id, also where the state is told late; with labels and without payload."""
        for number in range(1, 8):
            await self.new_broadcast(
                number, number % 2 * 5, required_labels=[common.Label(service_name="a", label="b")]
            )
        self.assertEqual(await self.broadcasts_in(BroadcastState.ANY, limit=3), [1, 2, 3])
        self.assertEqual(await self.broadcasts_in(BroadcastState.ANY, after=(3).to_bytes(8, "big"), limit=3), [4, 5, 6])
        self.assertEqual(await self.broadcasts_in(BroadcastState.ACTIVE, limit=3), [1, 3, 5])
        self.assertEqual(await self.broadcasts_in(BroadcastState.STOPPED, limit=1), [])
        self.assertEqual(await self.broadcasts_in(BroadcastState.DISABLED, after=(2).to_bytes(8, "big"), limit=1), [4])
        [first] = await self.operators.broadcast_page(BroadcastState.ANY, "", b"", 1)
        self.assertEqual([label.label for label in first.broadcast.required_labels], ["b"])
        self.assertFalse(first.broadcast.HasField("data"))

    async def test_operators_broadcasts_that_are_under_way(self) -> None:
        """What a server has sent of its share counts at once."""
        await self.add_client()
        broadcast_id = await self.new_broadcast(1, 10)
        allocation = await self.store.allocate_broadcast(broadcast_id, 0.5, self.clock.ns + SECOND)
        assert allocation is not None
        await self.send_broadcast_to(broadcast_id, C1, 1, allocation.allocation_id)
        [one] = await self.operators.broadcast_page(BroadcastState.ACTIVE, "", b"", 1)
        self.assertEqual((one.limit, one.sent, one.allocated), (10, 1, 4))

    # -- files and settings

    async def test_operators_files_by_pages(self) -> None:
        """By service and name, with time and size."""
        self.clock.set(84)
        for service, name in (("b", "y"), ("a", "z"), ("b", "x"), ("a", "y")):
            await self.store.store_file(service, name, name.encode() * 3)
        page = self.operators.file_page
        first = await page("", ("", ""), 3)
        self.assertEqual([one[:2] for one in first], [("a", "y"), ("a", "z"), ("b", "x")])
        self.assertEqual(first[0].stat, (84 * SECOND, 3))
        self.assertEqual([one[:2] for one in await page("", ("b", "x"), 3)], [("b", "y")])
        self.assertEqual([one[:2] for one in await page("b", ("", ""), 3)], [("b", "x"), ("b", "y")])
        self.assertEqual([one[:2] for one in await page("b", ("b", "x"), 3)], [("b", "y")])
        self.assertEqual(await page("c", ("", ""), 3), [])

    async def test_operators_settings(self) -> None:
        """Kept by name, replaced, and refused if they do not fit."""
        self.assertEqual(await self.operators.settings(), {})
        await self.operators.set_setting("enrolment", "CLOSED")
        await self.operators.set_setting("other", "ä€ '%s")
        await self.operators.set_setting("enrolment", "OPEN")
        self.assertEqual(await self.operators.settings(), {"enrolment": "OPEN", "other": "ä€ '%s"})
        for name, value in (("", "x"), ("n" * (MAX_NAME + 1), "x"), ("n", "x" * (MAX_SETTING + 1))):
            refused: Deferred[None] = self.operators.set_setting(name, value)
            with self.assertRaises(InvalidRecord):
                await refused
