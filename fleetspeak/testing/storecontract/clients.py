"""Clients, their labels, contacts and resource usage."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.errors import AlreadyExists, InvalidRecord, NotFound
from fleetspeak.ids import NO_CLIENT, ClientId
from fleetspeak.pb import common, monitoring
from fleetspeak.records import ClientData, ClientStream, Contact, Label
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
    timestamp,
)

WINDOWS = Label("system", "Windows")
VERSION = Label("system", "client-version-0.01")
NEW = Label("system", "new label")
KEY = b"A binary client key \x00\xff\x01\xfe"
ADDRESS = "[ABCD:ABCD:ABCD:ABCD:ABCD:ABCD:192.168.123.123]:65535"


class ClientsContract(StoreCase):
    """What is known of clients."""

    async def test_20_to_26_a_client(self) -> None:
        """20 to 26: the life of a client."""
        self.clock.set(84)
        self.assertEqual(await self.store.client_data([C1]), {})  # 20
        added = ClientData(KEY, frozenset([WINDOWS, VERSION]))
        await self.store.add_client(C1, added)
        self.assertEqual(await self.store.client_data([C1]), {C1: added})  # 21
        await self.store.update_client_labels(C1, [NEW], [VERSION])
        labelled = ClientData(KEY, frozenset([WINDOWS, NEW]))
        self.assertEqual(await self.store.client_data([C1]), {C1: labelled})  # 22
        contact = Contact(C1, 42, 54, ADDRESS, timestamp(21), "fs.servers.somewhere.com")
        contact_id = await only(self.store.record_contacts([contact]))
        await self.store.store_messages([from_client(1)])
        await self.store.link_messages_to_contact(contact_id, [message_id(1)])  # 23
        [client] = await self.store.list_clients([])
        self.assertEqual(client.client_id, C1)
        self.assertEqual(client.last_contact_time, timestamp(84))
        self.assertEqual(client.last_contact_address, ADDRESS)
        self.assertEqual(client.last_contact_streaming_to, "fs.servers.somewhere.com")
        self.assertEqual(client.last_clock, timestamp(21))
        self.assertEqual(_labels(client.labels), {WINDOWS, NEW})
        self.assertFalse(client.blacklisted)  # 24
        [entry] = await self.store.client_contacts(C1, 0, 10)
        self.assertEqual(entry.contact, Contact(C1, 42, 54, ADDRESS))
        self.assertEqual(entry.time_ns, 84 * SECOND)  # 25
        await self.store.blacklist_client(C1)
        expected = ClientData(KEY, frozenset([WINDOWS, NEW]), blacklisted=True)
        self.assertEqual(await self.store.client_data([C1]), {C1: expected})  # 26

    async def test_the_streams_of_clients(self) -> None:
        """server-core 7: the address of a stream's server is stored at its start, and emptied by each poll."""
        for client_id in (C1, C2):
            await self.store.add_client(client_id, ClientData(KEY))
        self.assertEqual(await self.store.client_streams([C1, C2]), {}, "not before the first contact")
        self.clock.set(84)
        await only(self.store.record_contacts([Contact(C1, 1, 2, "peer:1", streaming_to="server:1")]))
        self.clock.set(85)
        await only(self.store.record_contacts([Contact(C2, 1, 2, "peer:2", streaming_to="server:2")]))
        streams = {C1: ClientStream("server:1", 84 * SECOND), C2: ClientStream("server:2", 85 * SECOND)}
        self.assertEqual(await self.store.client_streams([C2, C3, C1, C1]), streams)
        self.assertEqual(await self.store.client_streams([C1]), {C1: streams[C1]})
        self.assertEqual(await self.store.client_streams([]), {})
        await only(self.store.record_contacts([Contact(C1, 1, 2, "peer:1")]))
        self.assertEqual(await self.store.client_streams([C1, C2]), {C2: streams[C2]}, "a poll empties it")

    async def test_27_without_labels_and_blacklisted(self) -> None:
        """27: a client is added as it is said."""
        await self.store.add_client(C1, ClientData(KEY))
        await self.store.add_client(C2, ClientData(KEY, blacklisted=True))
        self.assertEqual(
            await self.store.client_data([C1, C2, C3]),
            {C1: ClientData(KEY), C2: ClientData(KEY, blacklisted=True)},
        )

    async def test_28_list_clients(self) -> None:
        """28: all of them, or those asked for, with labels in both cases; unknown ones are left out."""
        for client_id in (C1, C2, C3):
            await self.store.add_client(client_id, ClientData(KEY, frozenset([WINDOWS])))
        await self.store.blacklist_client(C3)
        every = {client.client_id: client for client in await self.store.list_clients([])}
        self.assertEqual(set(every), {C1, C2, C3})
        self.assertEqual([one for one, client in every.items() if client.blacklisted], [C3])
        self.assertTrue(all(client.HasField("last_contact_time") for client in every.values()))
        self.assertEqual(await self.store.list_clients([C1]), [every[C1]])
        both = await self.store.list_clients([C1, C2, ClientId(b"unknown!")])
        self.assertEqual({client.client_id: client for client in both}, {one: every[one] for one in (C1, C2)})
        self.assertEqual(_labels(every[C1].labels), {WINDOWS})

    async def test_29_client_ids(self) -> None:
        """29: with and without the blacklisted ones, and those after a time, strictly."""
        times = []
        for client_id in (C1, C2, C3):
            times.append(self.clock.ns)
            await self.add_client(client_id)
            self.clock.advance(1)
        await self.store.blacklist_client(C2)
        self.assertEqual(await self.store.client_ids(True, None, NO_CLIENT, 10), [C1, C2, C3])
        self.assertEqual(await self.store.client_ids(False, None, NO_CLIENT, 10), [C1, C3])
        before_c2 = times[1] - 1
        self.assertEqual(await self.store.client_ids(True, before_c2, NO_CLIENT, 10), [C2, C3])
        self.assertEqual(await self.store.client_ids(True, times[1], NO_CLIENT, 10), [C3])
        self.assertEqual(await self.store.client_ids(False, before_c2, NO_CLIENT, 10), [C3])

    async def test_client_ids_by_pages(self) -> None:
        """Pages of ascending ids leave nobody out, blacklisted or not."""
        added = sorted(ClientId((number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")) for number in range(25))
        for client_id in added:
            await self.add_client(client_id)
        await self.store.blacklist_client(added[3])
        found: list[ClientId] = []
        while page := await self.store.client_ids(False, None, found[-1] if found else NO_CLIENT, 10):
            found += page
        self.assertEqual(found, added[:3] + added[4:])

    async def test_contacts_by_pages(self) -> None:
        """Pages of contacts of one client, by ascending row."""
        await self.add_client(C1)
        await self.add_client(C2)
        for number in range(10):
            await self.store.record_contacts([Contact(C1, number, 0, "a"), poll(C2)])
        found = []
        after = 0
        while page := await self.store.client_contacts(C1, after, 4):
            found += [entry.contact.sent_nonce for entry in page]
            after = page[-1].row
        self.assertEqual(found, list(range(10)))
        self.assertEqual(await self.store.client_contacts(C3, 0, 10), [])

    async def test_a_poll_ends_what_a_stream_left(self) -> None:
        """Where a client streams to, and its clock, are those of its last contact."""
        await self.add_client()
        await self.store.record_contacts([Contact(C1, 2**64 - 1, 0, "first", timestamp(21), "server:1")])
        self.clock.advance(5)
        await self.store.record_contacts([Contact(C1, 1, 2**64 - 1, "second")])
        [client] = await self.store.list_clients([C1])
        self.assertEqual((client.last_contact_address, client.last_contact_streaming_to), ("second", ""))
        self.assertFalse(client.HasField("last_clock"))
        self.assertEqual(client.last_contact_time, timestamp(100_005))
        first, second = await self.store.client_contacts(C1, 0, 10)
        self.assertEqual((first.contact.sent_nonce, second.contact.received_nonce), (2**64 - 1, 2**64 - 1))

    async def test_contact_ids_are_lower_case_hex(self) -> None:
        """Of a number that grows."""
        await self.add_client()
        contact_ids = [await self.record_contact() for _ in range(12)]
        for contact_id in contact_ids:
            self.assertEqual(contact_id, f"{int(contact_id, 16):x}")
        rows = [int(contact_id, 16) for contact_id in contact_ids]
        self.assertEqual(rows, sorted(set(rows)))

    async def test_labels_are_idempotent(self) -> None:
        """Adding what is there and removing what is not changes nothing; an unknown client has no labels."""
        await self.store.add_client(C1, ClientData(KEY, frozenset([WINDOWS])))
        await self.store.update_client_labels(C1, [WINDOWS, NEW, NEW], [VERSION])
        await self.store.update_client_labels(C1, [NEW], [])
        self.assertEqual((await self.store.client_data([C1]))[C1].labels, {WINDOWS, NEW})
        await self.store.update_client_labels(C1, [VERSION], [VERSION])
        self.assertEqual((await self.store.client_data([C1]))[C1].labels, {WINDOWS, NEW, VERSION})
        with self.assertRaises(NotFound):
            await self.store.update_client_labels(C2, [NEW], [])
        with self.assertRaises(InvalidRecord):
            await self.store.update_client_labels(C1, [Label("client", "x" * 129)], [])

    async def test_labels_differ_by_case(self) -> None:
        """And by blanks at their ends."""
        labels = frozenset(Label("client", text) for text in ("linux", "Linux", "linux ", ""))
        await self.store.add_client(C1, ClientData(KEY, labels))
        known = (await self.store.client_data([C1]))[C1].labels
        if self.exact_labels:
            self.assertEqual(known, labels)
        else:
            self.assertEqual({label.label.strip().lower() for label in known}, {"linux", ""})

    async def test_a_client_is_added_once(self) -> None:
        """A second time is an error, and changes nothing."""
        await self.store.add_client(C1, ClientData(KEY))
        with self.assertRaises(AlreadyExists):
            await self.store.add_client(C1, ClientData(b"other", frozenset([NEW])))
        self.assertEqual(await self.store.client_data([C1]), {C1: ClientData(KEY)})
        with self.assertRaises(InvalidRecord):
            await self.store.add_client(ClientId(b"short"), ClientData(KEY))
        await self.store.blacklist_client(C2)  # unknown, and no error

    async def test_links_are_idempotent(self) -> None:
        """A repeated pair is no error; a contact that does not exist is."""
        await self.add_client()
        contact_id = await self.record_contact()
        await self.store.store_messages([from_client(1)], contact_id)
        for _ in range(2):
            await self.store.link_messages_to_contact(contact_id, [message_id(1), message_id(1)])
        with self.assertRaises(NotFound):
            await self.store.link_messages_to_contact("77", [message_id(1)])
        for contact_id in ("", "xyz", "-1", "0x1", "1" * 17, "f" * 16):
            with self.assertRaises(InvalidRecord):
                await self.store.link_messages_to_contact(contact_id, [message_id(1)])

    async def test_30_and_31_resource_usage(self) -> None:
        """30 and 31: what a client reports of itself, by the time it was stored, to the nanosecond."""
        await self.add_client()
        data = monitoring.ResourceUsageData(
            scope="test-scope",
            pid=1234,
            process_start_time=Timestamp(seconds=1234567890, nanos=98765),
            data_timestamp=Timestamp(seconds=1234567891, nanos=98765),
            process_terminated=True,
            resource_usage=monitoring.AggregatedResourceUsage(
                mean_user_cpu_rate=50,
                max_user_cpu_rate=60,
                mean_system_cpu_rate=70,
                max_system_cpu_rate=80,
                mean_resident_memory=190 * 2**20,
                max_resident_memory=200 * 2**20,
                mean_num_fds=13.4,
                max_num_fds=42,
            ),
        )
        self.clock.ns += 123_456_789
        stored_at = self.clock.ns
        await self.store.record_resource_usage(C1, data)
        [record] = await self.store.resource_usage(C1, stored_at, stored_at + 60 * SECOND)
        self.assertEqual(record.process_start_time, data.process_start_time)
        self.assertEqual(record.client_timestamp, data.data_timestamp)
        self.assertEqual(record.server_timestamp.ToNanoseconds(), stored_at)
        self.assertEqual((record.scope, record.pid, record.process_terminated), ("test-scope", 1234, True))
        self.assertEqual((record.mean_user_cpu_rate, record.max_user_cpu_rate), (50, 60))
        self.assertEqual((record.mean_system_cpu_rate, record.max_system_cpu_rate), (70, 80))
        self.assertEqual((record.mean_resident_memory_mib, record.max_resident_memory_mib), (190, 200))
        self.assertEqual((record.mean_num_fds, record.max_num_fds), (13, 42))  # 30
        self.assertEqual(await self.store.resource_usage(C1, stored_at - 1, stored_at), [])
        with self.assertRaises(InvalidRecord):
            await self.store.resource_usage(C1, stored_at, stored_at - 1)
        self.assertEqual(await self.store.resource_usage(C1, stored_at, stored_at + 1), [record])  # 31
        self.assertEqual(await self.store.resource_usage(C2, stored_at, stored_at + 1), [])

    async def test_odd_resource_usage(self) -> None:
        """A report without a time is refused; absurd numbers are stored as the largest there are."""
        await self.add_client()
        data = monitoring.ResourceUsageData(scope="s", process_start_time=timestamp(1))
        with self.assertRaises(InvalidRecord):
            await self.store.record_resource_usage(C1, data)
        data.data_timestamp.CopyFrom(timestamp(2))
        with self.assertRaises(NotFound):
            await self.store.record_resource_usage(C2, data)
        await self.store.record_resource_usage(C1, data)
        usage = data.resource_usage
        usage.mean_resident_memory = float("inf")
        usage.mean_num_fds = float("nan")
        usage.max_resident_memory = 2**62
        await self.store.record_resource_usage(C1, data)
        plain, absurd = await self.store.resource_usage(C1, 0, self.clock.ns + 1)
        self.assertEqual((plain.mean_num_fds, plain.max_resident_memory_mib), (0, 0))
        self.assertEqual((absurd.mean_num_fds, absurd.max_resident_memory_mib), (0, 2**31 - 1))


def _labels(labels: object) -> set[Label]:
    found: set[Label] = set()
    for label in labels:  # type: ignore[attr-defined]
        assert isinstance(label, common.Label)
        found.add(Label(label.service_name, label.label))
    return found
