"""Overdue messages: for which services they are handed out, how long they are retried, and what is left of them."""

from __future__ import annotations

from fleetspeak.core.retrytimes import DEAD
from fleetspeak.pb import common
from fleetspeak.records import NO_LIMITS, ResultUpdate, RetryLimits
from fleetspeak.testing.storecontract.base import (
    C1,
    MINUTE,
    SECOND,
    StoreCase,
    failure,
    from_client,
    message_id,
    numbers,
    success,
    without_data,
)

DAY = 24 * 60 * MINUTE


def for_service(number: int, service: str = "TestServiceName", created: float = 100_000) -> common.Message:
    """A message for a server service, created when the clock of the tests begins."""
    message = from_client(number, created=created)
    message.destination.service_name = service
    return message


class DeadLettersContract(StoreCase):
    """What becomes of messages that no service takes."""

    async def take(self, limits: RetryLimits = NO_LIMITS) -> list[common.Message]:
        """Let time pass until the next message is due, and claim what is."""
        due = await self.store.next_overdue()
        assert due is not None
        self.clock.ns = max(due, self.clock.ns)
        return await self.store.overdue_messages(10, limits=limits)

    async def bury(self, *stored: common.Message) -> list[common.Message]:
        """Store messages, and let them die after a single attempt."""
        await self.store.store_messages(stored)
        return await self.take(RetryLimits(max_attempts=1))

    # -- room

    async def test_services_without_room_are_passed_over(self) -> None:
        """Their messages stay due; others behind them are not held up, whatever the limit."""
        await self.store.store_messages([for_service(n, "slow") for n in range(20)])
        self.clock.advance(1)
        await self.store.store_messages([for_service(n, "Slow") for n in range(20, 23)])
        await self.store.store_messages([for_service(n, "quick") for n in range(23, 26)])
        self.clock.advance(3600)
        taken = await self.store.overdue_messages(4, {"slow": 0, "unheard of": 0, "Slow": 2})
        self.assertNotIn("slow", {message.destination.service_name for message in taken})
        rest = await self.store.overdue_messages(100, {"slow": 0})
        self.assertEqual(sorted(numbers(taken) + numbers(rest)), list(range(20, 26)))
        self.assertEqual(sorted(numbers(await self.store.overdue_messages(100, {"slow": 20}))), list(range(20)))

    async def test_while_services_have_no_room_looks_may_begin_later(self) -> None:
        """What became due before a time is left out then, so that nobody has to go past it."""
        for number, service in enumerate(("slow", "quick", "quick")):
            await self.store.store_messages([for_service(number, service)])
            self.clock.advance(1)
        second = 100_001 * SECOND + int(1.5 * MINUTE)
        self.clock.advance(3600)
        found = await self.store.overdue_messages(10, {"slow": 0}, since_ns=second + SECOND)
        self.assertEqual(numbers(found), [2])
        self.assertEqual(numbers(await self.store.overdue_messages(10, {"slow": 0}, since_ns=second)), [1])
        self.assertEqual(numbers(await self.store.overdue_messages(10, {"slow": 9}, since_ns=self.clock.ns)), [0])

    async def test_a_service_gets_no_more_than_it_has_room_for(self) -> None:
        """What it did not get can be taken at once."""
        await self.store.store_messages([for_service(n) for n in range(5)])
        self.clock.advance(3600)
        first = await self.store.overdue_messages(10, {"TestServiceName": 3})
        second = await self.store.overdue_messages(10, {"TestServiceName": 3})
        self.assertEqual((len(first), len(second)), (3, 2))
        self.assertEqual(sorted(numbers(first) + numbers(second)), list(range(5)))

    # -- limits

    async def test_the_delay_has_a_cap(self) -> None:
        """However often a message was tried."""
        self.clock.chance = 0.999999
        await self.store.store_messages([for_service(1)])
        limits = RetryLimits(max_delay_ns=10 * MINUTE)
        for _ in range(40):
            before = await self.store.next_overdue()
            self.assertEqual(numbers(await self.take(limits)), [1])
            after = await self.store.next_overdue()
            assert before is not None
            assert after is not None
            delay = after - before
            self.assertLessEqual(delay, 10 * MINUTE)
        self.assertGreater(delay, 9 * MINUTE)

    async def test_attempts_are_counted(self) -> None:
        """With 4 in all, the first one included, a message comes three more times, and then is dead."""
        await self.store.store_messages([for_service(1)])
        limits = RetryLimits(max_attempts=4)
        for _ in range(3):
            self.assertEqual(await self.take(limits), [for_service(1)])
        [dead] = await self.take(limits)
        assert dead.result.failed
        self.assertEqual(dead.result.processed_time.ToNanoseconds() // 1000, self.clock.ns // 1000)
        age = (self.clock.ns - 100_000 * SECOND) // SECOND
        self.assertEqual(dead.result.failed_reason, f"{DEAD}given up after 4 attempts, {age} s after its creation")
        self.assertFalse(dead.HasField("data"))
        self.assertIsNone(await self.store.next_overdue())
        self.clock.advance(10**9)
        self.assertEqual(await self.store.overdue_messages(10), [])

    async def test_the_end_of_the_last_attempt_is_told_soon(self) -> None:
        """And not when the message would have come again."""
        await self.store.store_messages([for_service(1)])
        limits = RetryLimits(max_attempts=60)
        for _ in range(59):
            await self.take(limits)
        last = self.clock.ns
        [dead] = await self.take(limits)
        self.assertTrue(dead.HasField("result"))
        self.assertLessEqual(self.clock.ns - last, 2 * MINUTE)

    async def test_age_counts_from_creation(self) -> None:
        """And is told when the message expires."""
        await self.store.store_messages([for_service(1)])
        limits = RetryLimits(max_age_ns=DAY)
        while True:
            [message] = await self.take(limits)
            if message.HasField("result"):
                break
            self.assertLess(self.clock.ns, 100_000 * SECOND + DAY)
        self.assertLess(self.clock.ns, 100_000 * SECOND + DAY + 2 * MINUTE)
        self.assertTrue(message.result.failed_reason.startswith(DEAD))

    async def test_what_is_too_old_is_tried_again_once(self) -> None:
        """So that nothing dies because the servers were down."""
        await self.store.store_messages([for_service(1)])
        self.clock.advance(30 * DAY / SECOND)
        limits = RetryLimits(max_age_ns=DAY)
        self.assertEqual(await self.store.overdue_messages(10, limits=limits), [for_service(1)])
        [dead] = await self.take(limits)
        self.assertTrue(dead.result.failed)

    async def test_the_living_and_the_dead_come_together(self) -> None:
        """Each as it is, the oldest first."""
        await self.store.store_messages([for_service(2, created=100), for_service(1, created=99_999)])
        self.clock.advance(200)
        limits = RetryLimits(max_age_ns=DAY)
        self.assertEqual(numbers(await self.store.overdue_messages(10, limits=limits)), [2, 1])
        self.clock.advance(200)
        dead, living = await self.store.overdue_messages(10, limits=limits)
        self.assertEqual(numbers([dead, living]), [2, 1])
        self.assertEqual((dead.HasField("result"), dead.HasField("data")), (True, False))
        self.assertEqual(living, for_service(1, created=99_999))

    # -- dead letters

    async def test_a_dead_letter_is_no_pending_message_and_keeps_its_payload(self) -> None:
        """Whoever asks for its state sees the failure."""
        [dead] = await self.bury(for_service(1))
        self.assertEqual(await self.result_of(message_id(1)), dead.result)
        self.assertEqual(await self.store.get_messages([message_id(1)], want_data=False), [dead])
        [kept] = await self.store.get_messages([message_id(1)], want_data=True)
        self.assertEqual(kept.data, for_service(1).data)
        self.assertEqual(await self.store.pending_message_count([C1]), 0)
        self.assertEqual(await self.store.dead_message_counts(), {"TestServiceName": 1})

    async def test_retry(self) -> None:
        """A dead letter is as it was when it was stored first, but due at once; what is none stays as it is."""
        sent = for_service(1)
        sent.priority, sent.background, sent.is_blocklisted_source = common.Message.LOW, True, True
        sent.validation_info.tags["a"] = "b"
        await self.bury(sent)
        await self.store.store_messages([for_service(2), for_service(3)])
        await self.store.set_message_results([ResultUpdate(message_id(3), failure(7))])
        asked = [message_id(number) for number in (1, 2, 3, 99, 1)]
        self.assertEqual(await self.store.retry_messages(asked), 1)
        self.assertEqual(await self.store.retry_messages(asked), 0)
        self.assertIsNone(await self.result_of(message_id(1)))
        self.assertEqual(await self.store.dead_message_counts(), {})
        self.assertEqual(await self.result_of(message_id(3)), failure(7))
        self.assertEqual(await self.store.overdue_messages(10, limits=RetryLimits(max_attempts=2)), [sent])
        self.assertEqual(await self.store.retry_messages([]), 0)

    async def test_a_retried_message_dies_again(self) -> None:
        """Even one that is too old for the limits has had its attempt."""
        [first] = await self.bury(for_service(1))
        self.clock.advance(30 * DAY / SECOND)
        await self.store.retry_messages([message_id(1)])
        limits = RetryLimits(max_age_ns=DAY)
        self.assertEqual(await self.store.overdue_messages(10, limits=limits), [for_service(1)])
        [again] = await self.take(limits)
        self.assertTrue(again.result.failed_reason.startswith(f"{DEAD}given up after 2 attempts"))
        self.assertGreater(again.result.processed_time.seconds, first.result.processed_time.seconds)
        self.assertEqual(await self.store.retry_messages([message_id(1)]), 1)

    async def test_a_retried_message_gets_a_result(self) -> None:
        """And is then like any other."""
        await self.bury(for_service(1))
        await self.store.retry_messages([message_id(1)])
        await self.store.set_message_results([ResultUpdate(message_id(1), success(9))])
        [done] = await self.store.get_messages([message_id(1)], want_data=True)
        expected = without_data(for_service(1))
        expected.result.CopyFrom(success(9))
        self.assertEqual(done, expected)
        self.assertEqual(await self.store.retry_messages([message_id(1)]), 0)

    async def test_a_dead_letter_that_comes_again(self) -> None:
        """Without a result, or with a failure, it stays dead; a success counts, and ends it."""
        for number, again in enumerate((None, failure(5), success(5))):
            [dead] = await self.bury(for_service(number))
            repeat = for_service(number)
            if again is not None:
                repeat.result.CopyFrom(again)
                repeat.ClearField("data")
            await self.store.store_messages([repeat])
            succeeded = again == success(5)
            self.assertEqual(await self.result_of(message_id(number)), again if succeeded else dead.result)
            self.assertEqual(await self.store.retry_messages([message_id(number)]), 0 if succeeded else 1)
            await self.store.set_message_results([ResultUpdate(message_id(number), success(6))])

    async def test_dead_letters_are_counted_by_service(self) -> None:
        """To the letter."""
        names = ["a", "A", "b", "a"]
        await self.bury(*(for_service(number, name) for number, name in enumerate(names)))
        self.assertEqual(await self.store.dead_message_counts(), {"a": 2, "A": 1, "b": 1})

    async def test_many_die_at_once(self) -> None:
        """And are retried at once."""
        await self.store.store_messages([for_service(number) for number in range(600)])
        self.clock.advance(3600)
        dead = await self.store.overdue_messages(1000, limits=RetryLimits(max_attempts=1))
        self.assertEqual(len(dead), 600)
        self.assertEqual(await self.store.retry_messages([message_id(number) for number in range(600)]), 600)
        self.assertEqual(len(await self.store.overdue_messages(1000)), 600)
