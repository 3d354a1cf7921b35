"""The audit trail of the admin API."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.defer import DeferredList, gatherResults

from fleetspeak.errors import NotFound, StoreError
from fleetspeak.records import AuditCall, AuditEnd, AuditEntry, AuditFilter
from fleetspeak.store.checks import MAX_AUDIT_NAME, MAX_AUDIT_TEXT
from fleetspeak.store.outcome import only
from fleetspeak.testing.storecontract.base import SECOND, StoreCase, message_id, to_client

INSERT = "fleetspeak.server.Admin/InsertMessage"
DELETE = "fleetspeak.server.Admin/DeleteFile"
ALICE = AuditCall("alice", "192.0.2.1:50000", "operator", INSERT, "message_id=00")
BOB = AuditCall("bob ä€😀", "[2001:db8::1]:50000", "admin", DELETE, "service_name='S'")


class AuditContract(StoreCase):
    """Ours."""

    async def begin(self, call: AuditCall = ALICE) -> int:
        """Write an entry."""
        return await only(self.store.begin_audit([call]))

    async def listed(self, limit: int = 100, **wanted: object) -> list[AuditEntry]:
        """Entries that fit."""
        return await self.store.audit_entries(AuditFilter(**wanted), limit)  # type: ignore[arg-type]

    async def test_an_entry_is_there_before_its_end_is_known(self) -> None:
        """Then the end is noted in it."""
        self.clock.set(84)
        number = await self.begin(BOB)
        self.assertEqual(await self.listed(), [AuditEntry(number, 84 * SECOND, BOB)])
        self.clock.advance(5)
        await only(self.store.end_audit([AuditEnd(number, "NOT_FOUND", "there is no file é", 12_345_678_901)]))
        [entry] = await self.listed()
        self.assertEqual(entry, AuditEntry(number, 84 * SECOND, BOB, "NOT_FOUND", "there is no file é", 12_345_678_901))

    async def test_ends_of_others_and_of_nobody(self) -> None:
        """An end is noted in its own entry; one whose entry is gone is passed over."""
        first, second = await self.begin(), await self.begin(BOB)
        ends = [AuditEnd(second, "OK", "", 2), AuditEnd(second + 1000, "OK", "", 3)]
        self.assertEqual(await self.store.end_audit(ends), [None, None])
        self.assertEqual([(e.number, e.outcome) for e in await self.listed()], [(first, ""), (second, "OK")])

    async def test_numbers_ascend(self) -> None:
        """Also those of calls that begin at a time."""
        numbers = [number for _ in range(3) for number in await self.store.begin_audit([ALICE, BOB])]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual([entry.call for entry in await self.listed()], [ALICE, BOB] * 3)
        many = await gatherResults([self.store.begin_audit([ALICE]) for _ in range(20)])
        self.assertEqual(len({number for [number] in many}), 20)
        self.assertEqual(await self.store.begin_audit([]), [])
        self.assertEqual(await self.store.end_audit([]), [])

    async def test_a_message_with_its_entry(self) -> None:
        """Both are stored, or neither."""
        self.clock.set(84)
        await self.add_client()
        await self.store.store_messages([to_client(1)], audit=ALICE)
        [entry] = await self.listed()
        self.assertEqual((entry.call, entry.time_ns, entry.outcome), (ALICE, 84 * SECOND, "OK"))
        self.assertTrue(await self.is_pending(message_id(1)))
        refused = to_client(2)
        refused.ClearField("creation_time")
        for messages, contact_id in (([refused], ""), ([to_client(3)], "ffff")):
            with self.assertRaises(StoreError):
                await self.store.store_messages(messages, contact_id, audit=BOB)
        self.assertEqual(len(await self.listed()), 1)
        with self.assertRaises(NotFound):
            await self.store.get_messages([message_id(3)], want_data=False)

    async def test_messages_with_their_entries_at_a_time(self) -> None:
        """Those that cannot be stored leave no entry, however they are gathered with others."""
        await self.add_client()
        calls = [replace(ALICE, request=str(number)) for number in range(12)]
        stored = [
            self.store.store_messages([to_client(number)], "ffff" if number % 3 == 0 else "", audit=call)
            for number, call in enumerate(calls)
        ]
        outcomes = await DeferredList(stored, consumeErrors=True)
        self.assertEqual([done for done, _ in outcomes], [number % 3 != 0 for number in range(12)])
        found = sorted(int(entry.call.request) for entry in await self.listed())
        self.assertEqual(found, [number for number in range(12) if number % 3])

    async def test_pages(self) -> None:
        """Either way, from a number on."""
        numbers = [await self.begin() for _ in range(5)]
        ascending = await self.listed(2, after=numbers[0])
        self.assertEqual([entry.number for entry in ascending], numbers[1:3])
        descending = await self.listed(2, before=numbers[4], newest_first=True)
        self.assertEqual([entry.number for entry in descending], [numbers[3], numbers[2]])
        self.assertEqual(await self.listed(after=numbers[4]), [])

    async def test_filters(self) -> None:
        """By time, caller and method."""
        found = []
        for seconds, call in ((10, ALICE), (20, BOB), (30, ALICE)):
            self.clock.set(seconds)
            found.append(await self.begin(call))
        first, second, third = found
        for wanted, expected in (
            ({"caller": "alice"}, [first, third]),
            ({"caller": "Alice"}, []),
            ({"method": DELETE}, [second]),
            ({"start_ns": 20 * SECOND}, [second, third]),
            ({"end_ns": 20 * SECOND}, [first]),
            ({"start_ns": 11 * SECOND, "end_ns": 31 * SECOND, "caller": "alice"}, [third]),
        ):
            self.assertEqual([entry.number for entry in await self.listed(**wanted)], expected, wanted)

    async def test_what_is_too_long_is_cut(self) -> None:
        """An entry is never lost for what is in it."""
        odd = "\0'\\\"%s?😀\ud800"
        number = await self.begin(AuditCall(odd + "c" * 1000, "a" * 1000, "viewer", "m" * 1000, odd + "€" * 10_000))
        await only(self.store.end_audit([AuditEnd(number, "INTERNAL", odd + "😀" * 10_000, 1)]))
        [entry] = await self.listed()
        call = entry.call
        lengths = [len(text) for text in (call.caller, call.address, call.method, call.request, entry.detail)]
        self.assertEqual(lengths, [MAX_AUDIT_NAME] * 3 + [MAX_AUDIT_TEXT] * 2)
        self.assertEqual((call.request[-4:], entry.detail[-4:]), ("€...", "😀..."))
        self.assertEqual(call.caller[:8], "?'\\\"%s?😀")

    async def test_pruning(self) -> None:
        """The oldest first, so many at a time; a number is never used again."""
        numbers = []
        for seconds in (10, 20, 30, 40):
            self.clock.set(seconds)
            numbers.append(await self.begin())
        self.assertEqual(await self.store.prune_audit(40 * SECOND, 2), 2)
        self.assertEqual([entry.number for entry in await self.listed()], numbers[2:])
        self.assertEqual(await self.store.prune_audit(40 * SECOND, 2), 1)
        self.assertEqual(await self.store.prune_audit(40 * SECOND, 2), 0)
        self.assertEqual(await self.store.prune_audit(41 * SECOND, 2), 1)
        self.assertGreater(await self.begin(), numbers[-1])
