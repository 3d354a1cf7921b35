"""Retention in a server: passes, turns, failures, and the end in the middle of one."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.server import ServerSettings
from fleetspeak.core import retention as core
from fleetspeak.errors import StoreError
from fleetspeak.ids import MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.records import ClientData, Prunable, Prune, Pruned
from fleetspeak.server import retention
from fleetspeak.server.assembly import Server
from fleetspeak.server.retention import INTERVAL, LEASE, OTHERS_TURN, Pruner, Retention
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.storecontract.base import C1, from_client, message_id, success, to_client
from tests.store.doubles import ToldStore

SECOND = 10**9
DAY = 86_400
NOW = 1_800_000_000
KEEP = {Prunable.MESSAGES: 7 * DAY}


class Heard:
    """Statistics."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()

    def rows_pruned(self, table: str, rows: int) -> None:
        self.rows[table] += rows


class SlowStore:
    """A store whose parts take as long as the test says, and that can fail."""

    def __init__(self, store: IStore) -> None:
        self._store = store
        self.asked: list[Prune] = []
        self.waiting: list[Deferred[Pruned]] = []
        self.slow = False
        self.error: StoreError | None = None

    def lease(self, *args: Any) -> Any:
        return self._store.lease(*args) if self.error is None else fail(self.error)

    def prune(self, request: Prune) -> Deferred[Pruned]:
        if self.error is not None:
            return fail(self.error)
        self.asked.append(request)
        call = self._store.prune(request)
        if not self.slow:
            return call
        self.waiting.append(Deferred())
        return self.waiting[-1]


class RetentionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(now_ns=self.now_ns, uniform=lambda: 0.0)
        self.store.open()
        self.successResultOf(self.store.add_client(C1, ClientData(b"key")))
        self.stats = Heard()

    def now_ns(self) -> int:
        return int((NOW + self.clock.seconds()) * SECOND)

    def service(self, store: Any = None, keep: Any = KEEP) -> Retention:
        made = Retention(store or self.store, keep, self.clock, self.now_ns, self.stats, lambda: 0.5)
        made.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    def put(self, numbers: range, days: float = 30) -> None:
        messages = []
        for number in numbers:
            message = from_client(number, created=NOW - days * DAY)
            message.result.CopyFrom(success(NOW - days * DAY))
            messages.append(message)
        self.successResultOf(self.store.store_messages(messages))

    def left(self, numbers: range) -> int:
        return len(self.successResultOf(self.store.message_results([message_id(number) for number in numbers])))

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step


class PassesTests(RetentionCase):
    def test_after_a_while_and_then_every_hour(self) -> None:
        self.put(range(1, 6))
        service = self.service()
        self.pass_time(29)
        self.assertEqual(self.left(range(1, 6)), 5)
        self.pass_time(2)
        self.assertEqual(self.left(range(1, 6)), 0)
        self.put(range(1, 4))
        self.pass_time(INTERVAL - 10)
        self.assertEqual(self.left(range(1, 6)), 3)
        self.pass_time(20)
        self.assertEqual(self.left(range(1, 6)), 0)
        self.assertEqual(service.rows, {"messages": 8})
        self.assertEqual(self.stats.rows, {"messages": 8})

    def test_pauses_between_parts(self) -> None:
        self.put(range(1, 501))
        store = SlowStore(self.store)
        store.slow = True
        self.service(store)
        self.pass_time(30)
        self.assertEqual(len(store.waiting), 1)
        self.pass_time(1)
        store.waiting[0].callback(Pruned({"messages": 200}, "p"))
        self.pass_time(3.9, 0.1)
        self.assertEqual(len(store.waiting), 1)
        self.pass_time(0.2, 0.1)
        self.assertEqual(len(store.waiting), 2)
        self.assertEqual((store.asked[1].position, store.asked[1].rows), ("p", 100))
        store.slow = False
        store.waiting[1].callback(Pruned({}, None))

    def test_a_store_that_fails(self) -> None:
        self.put(range(1, 6))
        store = SlowStore(self.store)
        store.error = StoreError("the disk is gone")
        self.service(store)
        self.pass_time(300)
        store.error = None
        self.pass_time(60)
        self.assertEqual(self.left(range(1, 6)), 0)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_store_that_fails_in_a_way_nobody_thought_of(self) -> None:
        self.put(range(1, 6))
        store = SlowStore(self.store)
        store.error = ZeroDivisionError()  # type: ignore[assignment]
        self.service(store)
        self.pass_time(70)
        store.error = None
        self.pass_time(60)
        self.assertEqual(self.left(range(1, 6)), 0)
        self.assertGreaterEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stop_while_it_rests_and_while_it_works(self) -> None:
        service = self.service()
        self.successResultOf(Deferred.fromCoroutine(service.stop()))
        self.put(range(1, 6))
        self.pass_time(INTERVAL)
        self.assertEqual(self.left(range(1, 6)), 5)

        store = SlowStore(self.store)
        store.slow = True
        service = self.service(store)
        self.pass_time(30)
        stopped = Deferred.fromCoroutine(service.stop())
        self.assertNoResult(stopped)
        store.waiting[0].callback(Pruned({"messages": 2}, "p"))
        self.successResultOf(stopped)
        state = self.successResultOf(self.store.lease(retention.LEASE_NAME, bytes(16), self.now_ns() + SECOND))
        self.assertEqual(state, "at messages p; keep messages=604800")

    def test_stop_does_not_wait_for_ever(self) -> None:
        store = SlowStore(self.store)
        store.slow = True
        service = self.service(store)
        self.pass_time(30)
        stopped = Deferred.fromCoroutine(service.stop())
        self.pass_time(retention.STOP_TIME + 1)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class TurnsTests(RetentionCase):
    """Several servers of one database."""

    def test_one_pass_in_an_interval(self) -> None:
        stores = [SlowStore(self.store) for _ in range(3)]
        for store in stores:
            self.service(store)
        for _ in range(3):
            self.pass_time(INTERVAL + OTHERS_TURN)
        self.assertIn(sum(len(store.asked) for store in stores), (3, 4))

    def test_one_at_a_time(self) -> None:
        one, other = SlowStore(self.store), SlowStore(self.store)
        one.slow = True
        self.service(one)
        self.pass_time(1)
        self.service(other, {**KEEP, Prunable.CONTACTS: DAY})
        self.pass_time(50)
        self.assertEqual((len(one.waiting), len(other.asked)), (1, 0))
        one.waiting[0].callback(Pruned({}, None))
        self.pass_time(OTHERS_TURN + 1)
        self.assertEqual([request.kind for request in other.asked], [Prunable.CONTACTS, Prunable.MESSAGES])

    def test_one_that_is_killed(self) -> None:
        """Another one goes on from where it was last known to be, once its lease is over."""
        dead = Pruner(self.store, KEEP, self.clock, self.now_ns)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(dead.begin())), "")
        self.successResultOf(
            Deferred.fromCoroutine(dead._lease(f"at messages {message_id(7).hex()}; keep messages=604800"))
        )
        self.put(range(1, 11))
        self.service()
        self.pass_time(LEASE - 1)
        self.assertEqual(self.left(range(1, 11)), 10)
        self.pass_time(OTHERS_TURN + 2)
        self.assertEqual(self.left(range(1, 11)), 7)
        self.pass_time(INTERVAL + 1)
        self.assertEqual(self.left(range(1, 11)), 0)

    def test_one_that_was_too_slow_gives_up(self) -> None:
        """Whose lease was taken by another one, it notices, and leaves that one alone."""
        slow, other = SlowStore(self.store), SlowStore(self.store)
        slow.slow = other.slow = True
        service = self.service(slow)
        self.pass_time(40)
        self.service(other)
        self.pass_time(LEASE + OTHERS_TURN)
        self.assertEqual(len(other.waiting), 1)
        slow.waiting[0].callback(Pruned({}, "p"))
        self.pass_time(60)
        self.assertEqual(len(slow.waiting), 1)
        other.waiting[0].callback(Pruned({}, None))
        self.assertEqual(self.left(range(1)), 0)
        self.assertEqual(service.rows, {})


class AssemblyTests(RetentionCase):
    """It is a part of a server that was told to, and of no other."""

    def steps(self, **settings: Any) -> list[str]:
        server = Server(ServerSettings(**settings), [], MemoryReactorClock(), store=self.store)
        return [step.name for step in server.steps()]

    def test_off_by_default(self) -> None:
        self.assertNotIn("retention", self.steps())
        steps = self.steps(keep=KEEP)
        self.assertLess(steps.index("store"), steps.index("retention"))


class CrashTests(SynchronousTestCase):
    """Whenever it is killed, and whoever goes on: nothing but what is due is deleted, and in the end all of it."""

    def setUp(self) -> None:
        self.patch(core, "FIRST_ROWS", 3)  # so that it takes many parts

    def run_with_kills(
        self, store: Any, clock: Clock, perform: Any, rows: list[tuple[float, float | None]], kills: list[int]
    ) -> None:
        def done(call: Deferred[Any]) -> Any:
            perform()
            return self.successResultOf(call)

        messages, due = [], set()
        for number, (created, processed) in enumerate(rows, 1):
            message = (from_client if number % 2 else to_client)(number, created=NOW - created * DAY)
            if processed is not None:
                message.result.CopyFrom(success(NOW - processed * DAY))
                if created > 7 and processed > 7:
                    due.add(number)
            messages.append(message)
        done(store.add_client(C1, ClientData(b"key")))
        done(store.store_messages(messages))
        for parts in [*kills, 10_000]:
            ended = self.until_killed(store, {**KEEP, Prunable.CONTACTS: DAY}, perform, clock, parts)
            there = done(store.message_results([MessageId(one.message_id) for one in messages]))
            left = {int.from_bytes(one, "big") for one in there}
            finished = {number for number, (_, processed) in enumerate(rows, 1) if processed is not None}
            self.assertEqual(finished - left - due, set(), "a younger one was deleted")
            pending = [number for number, (_, processed) in enumerate(rows, 1) if processed is None]
            done(store.get_messages([message_id(number) for number in pending], True))
            clock.advance(LEASE + 1)
        self.assertTrue(ended)
        # What was passed over by a pass that began in the middle is the next one's.
        self.assertTrue(self.until_killed(store, KEEP, perform, clock, 10_000))
        there = done(store.message_results([MessageId(one.message_id) for one in messages]))
        self.assertEqual({int.from_bytes(one, "big") for one in there} & due, set())

    def until_killed(self, store: Any, keep: Any, perform: Any, clock: Clock, parts: int) -> bool:
        """Let it work until it ends, or for so many steps, and never let it say where it was."""

        mortal = SlowStore(store)
        pruner = Pruner(mortal, keep, clock, lambda: int((NOW + clock.seconds()) * SECOND))  # type: ignore[arg-type]

        async def work() -> bool:
            state = await pruner.begin()
            assert state is not None
            return await pruner.finish_pass(state)

        call = Deferred.fromCoroutine(work())
        for _ in range(parts):
            perform()
            if call.called:
                return bool(self.successResultOf(call))
            clock.advance(retention.RENEWAL + 1 if parts % 3 else 1)
        mortal.error = StoreError("it was killed: nothing that it says arrives any more")
        for _ in range(5):  # what the store has begun it finishes
            pruner.wake()
            perform()
        self.assertTrue(call.called)
        call.addErrback(lambda failure: failure.trap(StoreError) and None)
        return False

    days = st.integers(1, 3000).filter(lambda hundredths: abs(hundredths - 700) > 5).map(lambda number: number / 100)
    rows = st.lists(st.tuples(days, days | st.none()), min_size=15, max_size=60)
    kills = st.lists(st.integers(1, 6), max_size=4)

    @given(rows, kills)
    @settings(max_examples=25, deadline=None)
    def test_memory(self, rows: list[tuple[float, float | None]], kills: list[int]) -> None:
        clock = Clock()
        store = MemoryStore(now_ns=lambda: int((NOW + clock.seconds()) * SECOND), uniform=lambda: 0.5)
        store.open()
        self.run_with_kills(store, clock, lambda: None, rows, kills)

    @given(rows, kills)
    @settings(max_examples=5, deadline=None)
    def test_sqlite(self, rows: list[tuple[float, float | None]], kills: list[int]) -> None:
        clock = Clock()
        store = ToldStore(self.mktemp(), now_ns=lambda: int((NOW + clock.seconds()) * SECOND), uniform=lambda: 0.5)
        self.successResultOf(store.open())
        self.run_with_kills(store, clock, store.perform, rows, kills)
        self.successResultOf(store.close())
