"""Messages that could not be processed when they came are processed later."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import PermanentError, StoreError, TemporaryError
from fleetspeak.ids import MessageId
from fleetspeak.pb import common
from fleetspeak.records import ClientData
from fleetspeak.server.services.backlog import BATCH, PARALLEL_BATCHES, SAFETY_NET, Backlog
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.store.memory import MemoryStore
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
        self.addCleanup(lambda: self.successResultOf(self.stop()))

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

    def test_only_so_many_batches_are_in_hand(self) -> None:
        slow = SlowService()
        self.manager.add("hello", slow, max_parallelism=1000)
        self.keep(*(message(number=n) for n in range(BATCH * (PARALLEL_BATCHES + 2))))
        self.begin()
        self.pass_time(66)
        self.assertEqual(len(slow.running), BATCH * PARALLEL_BATCHES)
        while slow.running:
            slow.finish(len(slow.running))

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


class ScriptedStore:
    """Says what a test wants it to say."""

    def __init__(self) -> None:
        self.looks = 0
        self.broken = False
        self.due: int | None = None

    def overdue_messages(self, limit: int) -> Deferred[list[common.Message]]:
        self.looks += 1
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
