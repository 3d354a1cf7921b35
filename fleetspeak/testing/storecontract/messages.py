"""Messages: what is stored, and how results merge."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyProto

from fleetspeak.errors import InvalidRecord, NotFound
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.pb import common
from fleetspeak.records import Claim, ResultUpdate
from fleetspeak.testing.storecontract.base import (
    C1,
    C2,
    StoreCase,
    failure,
    from_client,
    message_id,
    numbers,
    success,
    timestamp,
    to_client,
    without_data,
)


class MessagesContract(StoreCase):
    """Storing messages, reading them, and their results."""

    async def test_01_to_06_store_get_and_finish(self) -> None:
        """1 to 6: messages come back as they were stored; a result ends the payload."""
        await self.add_client()
        stored = [
            common.Message(
                message_id=number,
                source=common.Address(service_name="TestServiceName"),
                destination=common.Address(client_id=C1, service_name="TestServiceName"),
                message_type="Test message type 2",
                creation_time=timestamp(42),
                data=AnyProto(type_url="test data proto urn 2", value=b"Test data proto 2"),
            )
            for number in (b"01234567890123456789012345678902", b"11234567890123456789012345678903")
        ]
        stored[1].annotations.entries.add(key="session_id", value="123")
        stored[1].annotations.entries.add(key="request_id", value="1")
        message_ids = [MessageId(message.message_id) for message in stored]
        await self.store.store_messages(stored)
        await self.store.store_messages(stored)  # 2
        self.assertEqual(await self.store.get_messages(message_ids, want_data=True), stored)  # 3
        self.assertIsNone(await self.result_of(message_ids[0]))  # 4
        self.clock.set(84)
        await self.store.set_message_results([ResultUpdate(one, success(84), C1) for one in message_ids])
        expected = [without_data(message) for message in stored]
        for message in expected:
            message.result.CopyFrom(success(84))
        self.assertEqual(await self.store.get_messages(message_ids, want_data=True), expected)  # 5
        self.assertEqual(await self.result_of(message_ids[0]), success(84))  # 6

    async def test_07_to_10_results_merge(self) -> None:
        """7 to 10: messages stored with and without results; a later success replaces whatever was there."""
        self.clock.set(43)
        await self.add_client()
        contact_id = await self.record_contact()  # 7
        stored = [from_client(number) for number in range(3)]
        stored[1].ClearField("data")
        stored[1].result.CopyFrom(success(42.00002))
        stored[2].ClearField("data")
        stored[2].result.CopyFrom(failure(42))
        await self.store.store_messages(stored, contact_id)  # 8
        message_ids = [MessageId(message.message_id) for message in stored]
        self.assertEqual(
            await self.store.message_results(message_ids),
            {message_ids[1]: success(42.00002), message_ids[2]: failure(42)},  # 9
        )
        for message in stored:
            message.creation_time.CopyFrom(timestamp(52))
            message.ClearField("data")
            message.result.CopyFrom(success(52))
        await self.store.store_messages(stored, contact_id)
        self.assertEqual(await self.store.message_results(message_ids), dict.fromkeys(message_ids, success(52)))  # 10

    async def test_11_to_16_pending(self) -> None:
        """11 to 16: pending messages are listed, counted and removed."""
        self.clock.set(43)
        await self.add_client()
        contact_id = await self.record_contact()
        stored = []
        for digit, created in enumerate((42, 1, 2, 3, 4)):
            message = to_client(digit, created=created)
            message.message_id = b"9123456789012345678901234567890%d" % digit
            stored.append(message)
        await self.store.store_messages(stored, contact_id)  # 11
        message_ids = [MessageId(message.message_id) for message in stored]
        self.assertEqual(len(await self.store.get_messages(message_ids, want_data=False)), 5)
        self.assertEqual(await self.store.pending_message_count([C1]), 5)  # 12
        self.assertEqual(await self.store.pending_messages([C1], 0, 0, want_data=True), stored)  # 13
        bare = [without_data(message) for message in stored]
        self.assertEqual(await self.store.pending_messages([C1], 1, 2), bare[1:3])
        self.assertEqual(await self.store.pending_messages([C1], 0, 1), bare[:1])
        with self.assertRaises(InvalidRecord):
            await self.store.pending_messages([C1], 1, 0)  # 14
        self.assertEqual(await self.store.pending_messages([C1]), bare)  # 15
        await self.store.delete_pending_messages([C1])
        self.assertEqual(await self.store.client_messages_for_processing([Claim(C1, 1)]), [[]])
        for one in message_ids:
            self.assertEqual(await self.result_of(one), failure(43, "Removed by admin action."))  # 16

    async def test_pending_of_some_clients(self) -> None:
        """Pending messages of several clients, and of none: no clients means nothing, not all."""
        await self.store.store_messages([to_client(1), to_client(2, C2), to_client(3), from_client(4)])
        self.assertEqual(numbers(await self.store.pending_messages([C2, C1, C1])), [1, 2, 3])
        self.assertEqual(await self.store.pending_message_count([C2, C1, C1]), 3)
        self.assertEqual(await self.store.pending_messages([]), [])
        self.assertEqual(await self.store.pending_message_count([]), 0)
        await self.store.delete_pending_messages([])
        await self.store.delete_pending_messages([C2])
        self.assertEqual(numbers(await self.store.pending_messages([C1, C2])), [1, 3])

    async def test_get_messages_keeps_the_order_asked(self) -> None:
        """Messages come in the order asked, repeats included; any unknown id fails the whole call."""
        await self.store.store_messages([to_client(number) for number in range(3)])
        asked = [message_id(number) for number in (2, 0, 1, 0)]
        self.assertEqual(numbers(await self.store.get_messages(asked, want_data=False)), [2, 0, 1, 0])
        self.assertEqual(await self.store.get_messages([], want_data=True), [])
        with self.assertRaises(NotFound):
            await self.store.get_messages([message_id(0), message_id(77)], want_data=False)

    async def test_failures_are_read_back(self) -> None:
        """A message that failed says so, and why."""
        message = from_client(1)
        message.result.CopyFrom(failure(7))
        await self.store.store_messages([message])
        [read] = await self.store.get_messages([message_id(1)], want_data=True)
        self.assertEqual(read.result, failure(7))

    async def test_everything_of_a_message_is_kept(self) -> None:
        """Priority, background and blocklisting survive; empty parts differ from missing ones."""
        full = to_client(1)
        full.priority = common.Message.HIGH
        full.background = True
        full.is_blocklisted_source = True
        full.source_message_id = b"longer than the sixteen bytes of most"
        full.validation_info.tags["result"] = "Valid"
        empty = to_client(2)
        empty.ClearField("message_type")
        empty.data.Clear()
        empty.data.SetInParent()
        empty.validation_info.SetInParent()
        empty.annotations.SetInParent()
        await self.store.store_messages([full, empty])
        read = await self.store.get_messages([message_id(1), message_id(2)], want_data=True)
        full.source_message_id = full.source_message_id[: self.source_message_id_size]
        self.assertEqual(read, [full, empty])

    async def test_how_results_merge(self) -> None:
        """Each kind of known message meets each kind of incoming one."""
        none, first_ok, first_bad = None, success(1), failure(1, "first")
        ok, bad = success(2), failure(2, "second")
        cases = [
            (none, none, none),
            (none, ok, ok),
            (none, bad, bad),
            (first_ok, none, first_ok),
            (first_ok, ok, ok),
            (first_ok, bad, first_ok),
            (first_bad, none, first_bad),
            (first_bad, ok, ok),
            (first_bad, bad, first_bad),
        ]
        for together in (False, True):
            for number, (before, incoming, expected) in enumerate(cases, 100 if together else 0):
                pair = [_with_result(number, before), _with_result(number, incoming)]
                if together:
                    await self.store.store_messages(pair)
                else:
                    await self.store.store_messages(pair[:1])
                    await self.store.store_messages(pair[1:])
                self.assertEqual(await self.result_of(message_id(number)), expected, (together, before, incoming))
                count = await self.store.pending_message_count([C1])
                self.assertEqual(count, int(expected is none), (together, before, incoming))
                await self.store.delete_pending_messages([C1])

    async def test_a_repeat_keeps_content_and_schedule(self) -> None:
        """A message that comes again without a result changes nothing."""
        await self.store.store_messages([to_client(1)])
        self.assertEqual(await self.store.client_messages_for_processing([Claim(C1)]), [[to_client(1)]])
        changed = to_client(1, service="Other")
        changed.data.value = b"other"
        await self.store.store_messages([changed, to_client(2)])
        self.assertEqual(await self.store.get_messages([message_id(1)], want_data=True), [to_client(1)])
        [claimed] = await self.store.client_messages_for_processing([Claim(C1)])
        self.assertEqual(numbers(claimed), [2])

    async def test_set_message_results_overwrites(self) -> None:
        """A result is set whatever was there; unknown ids are passed over; the last one counts."""
        await self.store.store_messages([to_client(1), from_client(2)])
        for result in (success(1), failure(2), success(3)):
            await self.store.set_message_results(
                [
                    ResultUpdate(message_id(1), failure(9), C1),
                    ResultUpdate(message_id(1), result, C1),
                    ResultUpdate(message_id(2), result),
                    ResultUpdate(message_id(99), result),
                ]
            )
            results = await self.store.message_results([message_id(1), message_id(2), message_id(99)])
            self.assertEqual(results, {message_id(1): result, message_id(2): result})
        self.assertEqual(await self.store.pending_message_count([C1]), 0)
        self.assertIsNone(await self.store.next_overdue())
        await self.store.set_message_results([])

    async def test_long_reasons_are_cut(self) -> None:
        """A failed_reason is cut to what the column holds, at the end of a character."""
        await self.store.store_messages([to_client(1)])
        await self.store.set_message_results([ResultUpdate(message_id(1), failure(1, "\N{EURO SIGN}" * 30_000), C1)])
        result = await self.result_of(message_id(1))
        assert result is not None
        self.assertEqual(result.failed_reason, "\N{EURO SIGN}" * 21_845)

    async def test_records_that_cannot_be_stored(self) -> None:
        """They are refused before anything of the call is stored."""
        no_time = to_client(2)
        no_time.ClearField("creation_time")
        long_service = to_client(2, service="s" * 129)
        long_type = to_client(2)
        long_type.message_type = "t" * 129
        short_id = to_client(2)
        short_id.message_id = b"short"
        short_client = to_client(2, ClientId(b"short"))
        no_processed_time = to_client(2)
        no_processed_time.result.SetInParent()
        for bad in (no_time, long_service, long_type, short_id, short_client, no_processed_time):
            with self.assertRaises(InvalidRecord):
                await self.store.store_messages([to_client(1), bad])
        with self.assertRaises(InvalidRecord):
            await self.store.store_messages([to_client(1)], "not hex")
        with self.assertRaises(NotFound):
            await self.store.store_messages([to_client(1)], "77")
        with self.assertRaises(InvalidRecord):
            await self.store.set_message_results([ResultUpdate(message_id(1), common.MessageResult(), C1)])
        with self.assertRaises(NotFound):
            await self.store.get_messages([message_id(1)], want_data=False)
        await self.store.store_messages([to_client(1, service="s" * 128)])

    async def test_many_messages_in_one_call(self) -> None:
        """A call may be larger than any statement; numbers that are no powers of two lose nothing."""
        stored = [to_client(number) for number in range(1003)]
        await self.store.store_messages(stored)
        await self.store.store_messages([*stored, to_client(1003)])
        self.assertEqual(numbers(await self.store.pending_messages([C1])), list(range(1004)))
        asked = [MessageId(message.message_id) for message in reversed(stored)]
        self.assertEqual(await self.store.get_messages(asked, want_data=True), stored[::-1])


def _with_result(number: int, result: common.MessageResult | None) -> common.Message:
    message = to_client(number)
    if result is not None:
        message.result.CopyFrom(result)
        message.ClearField("data")
    return message
