"""A server without clients gives back what others have left behind."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.broadcasts import GRACE_NS
from fleetspeak.errors import StoreError
from fleetspeak.pb import broadcasts
from fleetspeak.server.allocations import AllocationSweep
from fleetspeak.store.memory import MemoryStore


class SweepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = MemoryStore(now_ns=self.now_ns)
        self.successResultOf(self.store.open())
        self.sweep = AllocationSweep(self.store, self.clock, self.now_ns, 60)

    def now_ns(self) -> int:
        return int(self.clock.seconds() * 1e9)

    def allocate(self) -> bool:
        """Take all that is left."""
        taken = self.successResultOf(self.store.allocate_broadcast(b"12345678", 1.0, self.now_ns() + 10**9))
        return taken is not None

    def test_what_a_server_left_behind_is_given_back(self) -> None:
        broadcast = broadcasts.Broadcast(broadcast_id=b"12345678")
        broadcast.source.service_name = "greeter"
        self.successResultOf(self.store.create_broadcast(broadcast, 10))
        self.assertTrue(self.allocate())
        self.assertFalse(self.allocate())
        self.sweep.start()
        self.clock.pump([30] * int(GRACE_NS / 1e9 / 30 - 2))
        self.assertFalse(self.allocate(), "it has its time of grace")
        self.clock.pump([60] * 5)
        self.assertTrue(self.allocate())
        self.successResultOf(Deferred.fromCoroutine(self.sweep.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_store_that_fails_is_asked_again(self) -> None:
        asked: list[int] = []

        def broken(expired_ns: int) -> Deferred[int]:
            asked.append(expired_ns)
            return fail(StoreError("the database is away"))

        self.store.sweep_allocations = broken  # type: ignore[method-assign]
        self.sweep.start()
        self.clock.pump([60] * 3)
        self.assertEqual(len(asked), 4)
        self.successResultOf(Deferred.fromCoroutine(self.sweep.stop()))

    def test_a_stop_does_not_wait_for_a_slow_store(self) -> None:
        cancelled: list[object] = []
        slow: Deferred[int] = Deferred(cancelled.append)
        self.store.sweep_allocations = lambda expired_ns: slow  # type: ignore[method-assign]
        self.sweep.start()
        self.successResultOf(Deferred.fromCoroutine(self.sweep.stop()))
        self.assertEqual(cancelled, [slow])
