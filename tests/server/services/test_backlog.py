"""Messages that could not be processed when they came are processed later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.retrytimes import DEAD
from fleetspeak.errors import PermanentError, StoreError, TemporaryError
from fleetspeak.ids import MessageId
from fleetspeak.pb import common
from fleetspeak.records import ClientData, RetryLimits
from fleetspeak.server.services.backlog import BATCH, HAND_BYTES, HAND_MESSAGES, SAFETY_NET, Backlog, _Hand
from fleetspeak.server.services.manager import PROCESSING_LIMIT, ServiceManager
from fleetspeak.server.stats import ServerStats
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.serverside import RecordingServerStats
from tests.server.services.doubles import CLIENT, InstantService, SlowService, message

START = 100_000 * 10**9


class BacklogCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(now_ns=self.now, uniform=lambda: 0.0)
        self.successResultOf(self.store.open())
        self.successResultOf(self.store.add_client(CLIENT, ClientData(key=b"k")))
        self.manager = ServiceManager(self.clock, self.now)
        self.backlog = Backlog(self.store, self.manager, self.clock, self.now, uniform=lambda: 0.0)

    def now(self) -> int:
        return START + int(self.clock.seconds() * 1e9)

    def keep(self, *messages: common.Message) -> None:
        self.successResultOf(self.store.store_messages(messages))

    def result(self, sent: common.Message) -> common.MessageResult | None:
        message_id = MessageId(sent.message_id)
        return self.successResultOf(self.store.message_results([message_id])).get(message_id)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)

    def begin(self) -> None:
        self.backlog.start()
        self.addCleanup(self.end)

    def end(self) -> None:
        stopped = self.stop()
        self.clock.advance(PROCESSING_LIMIT)  # services that a test has left at work
        self.successResultOf(stopped)

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.backlog.stop())


class RetryTests(BacklogCase):
    def test_a_due_message_is_processed_and_its_result_written(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        sent = message()
        self.keep(sent)
        self.begin()
        self.pass_time(58)
        self.assertEqual(service.seen, [])
        self.pass_time(4)
        self.assertEqual(service.seen, [sent])
        result = self.result(sent)
        assert result is not None
        self.assertFalse(result.failed)

    def test_what_fails_again_comes_again_later(self) -> None:
        service = InstantService(TemporaryError("no"))
        self.manager.add("hello", service)
        sent = message()
        self.keep(sent)
        self.begin()
        self.pass_time(62)
        self.assertEqual(len(service.seen), 1)
        self.pass_time(70)
        self.assertEqual(len(service.seen), 2)
        self.assertIsNone(self.result(sent))

    def test_a_permanent_failure_and_an_unknown_service_end_it(self) -> None:
        self.manager.add("hello", InstantService(PermanentError("never")))
        refused, lost = message(number=1), message("nobody", number=2)
        self.keep(refused, lost)
        self.begin()
        self.pass_time(62)
        reasons = {each.failed_reason for each in (self.result(refused), self.result(lost)) if each is not None}
        self.assertEqual(reasons, {"never", 'unknown service "nobody"'})

    def test_a_stored_message_of_a_blacklisted_client_says_so(self) -> None:
        """server-core.md 13."""
        service = InstantService()
        self.manager.add("hello", service)
        self.keep(message())
        self.successResultOf(self.store.blacklist_client(CLIENT))
        self.begin()
        self.pass_time(62)
        self.assertTrue(service.seen[0].is_blocklisted_source)

    def test_every_message_of_an_overloaded_service_is_processed_exactly_once(self) -> None:
        """server-core.md 13: parallelism 5, 20 to 40 messages of 5 clients."""
        service = SlowService()
        self.manager.add("hello", service, max_parallelism=5)
        sent = [message(number=n) for n in range(150)]
        self.keep(*sent)
        self.begin()
        processed = 0
        for _ in range(600):
            self.clock.advance(1)
            processed += len(service.running)
            service.finish(len(service.running))
        self.assertEqual(processed, 150)
        self.assertTrue(all(self.result(each) is not None for each in sent))


class BoundsTests(BacklogCase):
    def test_one_slow_service_does_not_hold_up_the_others(self) -> None:
        slow, quick = SlowService(), InstantService()
        self.manager.add("slow", slow, max_parallelism=1000)
        self.manager.add("hello", quick)
        self.keep(*(message("slow", number=n) for n in range(BATCH)))
        self.clock.advance(1)
        self.keep(*(message(number=1000 + n) for n in range(BATCH)))
        self.begin()
        self.pass_time(66)
        self.assertEqual(len(slow.running), BATCH)
        self.assertEqual(len(quick.seen), BATCH)
        slow.finish(BATCH)

    def test_nor_does_one_that_has_much_to_do(self) -> None:
        """datastore.md 3.6: upstream's backlog is stalled for 30 s by each slow message."""
        slow, quick = SlowService(), InstantService()
        self.manager.add("slow", slow, max_parallelism=20)
        self.manager.add("hello", quick)
        self.keep(*(message("slow", number=n) for n in range(20 * BATCH)))
        self.clock.advance(1)
        self.keep(*(message(number=100_000 + n) for n in range(3 * BATCH)))
        self.begin()
        self.pass_time(66)
        self.assertEqual(len(slow.running), 20)
        self.assertEqual(len(quick.seen), 3 * BATCH)
        late = message(number=200_000)
        self.keep(late)
        self.pass_time(64)
        self.assertEqual(len(quick.seen), 3 * BATCH + 1)
        self.assertIsNotNone(self.result(late))

    def test_a_service_gets_no_more_than_it_has_room_for(self) -> None:
        """What it cannot take stays due, and does not count as tried."""
        slow = SlowService()
        self.manager.add("hello", slow, max_parallelism=7)
        self.keep(*(message(number=n) for n in range(100)))
        self.begin()
        self.pass_time(66)
        self.assertEqual(len(slow.running), 7)
        due = self.successResultOf(self.store.next_overdue())
        assert due is not None
        self.assertLess(due, self.now())

    def test_a_look_follows_as_soon_as_a_service_has_room(self) -> None:
        """server-core.md 3.4: nothing waits longer than its service needs, so no time passes here."""
        slow = SlowService()
        self.manager.add("hello", slow, max_parallelism=4)
        sent = [message(number=n) for n in range(40)]
        self.keep(*sent)
        self.begin()
        self.pass_time(66)
        for _ in sent:
            slow.finish()
        self.assertTrue(all(self.result(each) is not None for each in sent))

    def test_new_messages_do_not_keep_the_backlog_waiting_for_ever(self) -> None:
        """Some places are for it, however long the line of new ones is."""
        slow = SlowService()
        self.manager.add("hello", slow, max_parallelism=10)
        old = message(number=0)
        self.keep(old)
        self.begin()
        number = 1
        for _ in range(100):
            new = [message(number=number + n) for n in range(30)]
            number += 30
            Deferred.fromCoroutine(self.manager.process(new, None, True))
            self.clock.advance(1)
            slow.finish(10)
        self.assertIsNotNone(self.result(old))

    def test_what_is_in_hand_is_bounded(self) -> None:
        """In messages and in bytes, for each service."""
        slow, large = SlowService(), SlowService()
        self.manager.add("hello", slow, max_parallelism=10_000)
        self.manager.add("large", large, max_parallelism=10_000)
        self.keep(*(message(number=n) for n in range(2 * HAND_MESSAGES)))
        for number in range(5):
            one = message("large", number=100_000 + number)
            one.data.value = bytes(HAND_BYTES // 2)
            self.keep(one)
        self.begin()
        self.pass_time(66)
        self.assertEqual(len(slow.running), HAND_MESSAGES)
        self.assertLessEqual(len(large.running), 3)
        large.finish(len(large.running))
        self.assertGreater(len(large.running), 0)

    def test_stop_waits_for_what_is_in_hand(self) -> None:
        slow = SlowService()
        self.manager.add("hello", slow)
        sent = message()
        self.keep(sent)
        self.backlog.start()
        self.pass_time(66)
        stopped = self.stop()
        self.assertNoResult(stopped)
        slow.finish()
        self.successResultOf(stopped)
        self.assertIsNotNone(self.result(sent))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class DeadLetterTests(BacklogCase):
    """Messages that are tried for as long as the operator's limits allow (server-core.md 3.5 [improve])."""

    def setUp(self) -> None:
        super().setUp()
        self.heard = RecordingServerStats()
        self.backlog = Backlog(
            self.store,
            self.manager,
            self.clock,
            self.now,
            uniform=lambda: 0.0,
            limits=RetryLimits(max_attempts=3),
            stats=ServerStats([self.heard], self.clock),
        )

    def test_it_fails_with_a_reason_that_scripts_recognize(self) -> None:
        service = InstantService(TemporaryError("not now"))
        self.manager.add("hello", service)
        sent = message()
        self.keep(sent)
        self.begin()
        self.pass_time(60 + 66)
        self.assertEqual(len(service.seen), 2, "its first attempt was when it came")
        self.assertIsNone(self.result(sent))
        with capturedLogs() as lines:
            self.pass_time(120)
        self.assertEqual(len(service.seen), 2)
        result = self.result(sent)
        assert result is not None
        self.assertTrue(result.failed)
        self.assertTrue(result.failed_reason.startswith(DEAD), result.failed_reason)
        [told] = [line for line in lines if "dead letter" in line["log_format"]]
        self.assertEqual((told["name"], told["reason"]), ("hello", result.failed_reason))
        [(_, service_name, _, temporary, first_try, client)] = self.heard.calls("message_errored")
        self.assertEqual((service_name, temporary, first_try), ("hello", False, False))
        self.assertEqual(client, ClientData(key=b"k"))

    def test_many_are_told_once_in_10_seconds(self) -> None:
        self.manager.add("hello", InstantService(TemporaryError("not now")))
        self.keep(*(message(number=n) for n in range(2 * BATCH)))
        self.begin()
        with capturedLogs() as lines:
            self.pass_time(300)
        self.assertEqual(len([line for line in lines if "dead letter" in line["log_format"]]), 1)
        self.assertEqual(self.successResultOf(self.store.dead_message_counts()), {"hello": 2 * BATCH})

    def test_it_is_retried_on_request(self) -> None:
        service = InstantService(TemporaryError("not now"))
        self.manager.add("hello", service)
        sent = message()
        self.keep(sent)
        self.begin()
        self.pass_time(300)
        service.error = None
        self.assertEqual(self.successResultOf(self.store.retry_messages([MessageId(sent.message_id)])), 1)
        self.backlog.wake()
        self.assertEqual(service.seen[-1], sent)
        result = self.result(sent)
        assert result is not None
        self.assertFalse(result.failed)

    def test_without_limits_none_dies(self) -> None:
        self.backlog = Backlog(self.store, self.manager, self.clock, self.now, uniform=lambda: 0.0)
        service = InstantService(TemporaryError("not now"))
        self.manager.add("hello", service)
        sent = message()
        self.keep(sent)
        self.begin()
        for _ in range(400):
            self.clock.advance(3600)
        self.assertIsNone(self.result(sent))
        self.assertGreater(len(service.seen), 60)
        self.assertLess(len(service.seen), 120, "in the end once in half a day to a day")


class ScriptedStore:
    """Says what a test wants it to say."""

    def __init__(self) -> None:
        self.looks = 0
        self.since: list[int] = []
        self.broken = False
        self.slow: Deferred[list[common.Message]] | None = None
        self.due: int | None = None

    def overdue_messages(
        self, limit: int, room: Mapping[str, int], limits: RetryLimits, since_ns: int
    ) -> Deferred[list[common.Message]]:
        self.looks += 1
        self.since.append(since_ns)
        if self.slow is not None:
            return self.slow
        return fail(StoreError("gone")) if self.broken else succeed([])

    def next_overdue(self) -> Deferred[int | None]:
        return succeed(self.due)


class PaceTests(BacklogCase):
    def setUp(self) -> None:
        super().setUp()
        self.scripted = ScriptedStore()
        store: Any = self.scripted
        self.backlog = Backlog(store, self.manager, self.clock, self.now, uniform=lambda: 0.0)

    def test_an_idle_server_looks_rarely(self) -> None:
        self.begin()
        self.pass_time(10 * SAFETY_NET)
        self.assertEqual(self.scripted.looks, 11)

    def test_it_looks_when_the_next_message_is_due(self) -> None:
        self.scripted.due = START + 2 * 10**9
        self.begin()
        self.clock.advance(1.9)
        self.assertEqual(self.scripted.looks, 1)
        self.scripted.due = None
        self.clock.advance(0.1)
        self.assertEqual(self.scripted.looks, 2)

    def test_an_insert_wakes_it(self) -> None:
        self.begin()
        self.backlog.wake()
        self.assertEqual(self.scripted.looks, 2)

    def test_while_a_service_has_no_room_others_are_looked_for_every_second(self) -> None:
        self.occupy()
        self.begin()
        self.pass_time(10)
        self.assertEqual(self.scripted.looks, 11)

    def test_a_look_past_much_is_not_repeated_soon(self) -> None:
        """What is due is looked for every second, but only what has become due since."""
        self.occupy()
        self.scripted.slow = Deferred()
        self.begin()
        self.clock.advance(2)
        self.scripted.slow, look = None, self.scripted.slow
        look.callback([])
        self.pass_time(20)
        self.assertEqual(len(self.scripted.since), 1 + 20)
        self.assertEqual([number for number, since_ns in enumerate(self.scripted.since) if not since_ns], [0])

    def occupy(self) -> None:
        """Leave a service no room."""
        self.manager.add("hello", SlowService(), max_parallelism=1)
        Deferred.fromCoroutine(self.manager.process([message(number=n) for n in range(3)], None, True))
        self.backlog._hands["hello"] = _Hand(messages=1)

    def test_a_broken_store_is_asked_ever_more_rarely(self) -> None:
        """datastore.md 3.6: upstream's loop repeats at once without pause."""
        self.scripted.broken = True
        with capturedLogs() as lines:
            self.begin()
            self.pass_time(120)
        self.assertLess(self.scripted.looks, 15)
        self.assertEqual(len(lines), self.scripted.looks)
        self.scripted.broken = False
        self.pass_time(30)
        recovered = self.scripted.looks
        self.pass_time(SAFETY_NET)
        self.assertGreater(self.scripted.looks, recovered)
