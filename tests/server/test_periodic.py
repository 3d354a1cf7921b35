"""Work that is done again and again."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.server.periodic import Periodic


class PeriodicTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.times: list[Deferred[None]] = []
        self.pause = 10.0
        self.periodic = Periodic("work", self.work, lambda: self.pause, self.clock)

    async def work(self) -> None:
        self.times.append(Deferred())
        await self.times[-1]

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.periodic.stop())

    def test_the_pause_begins_when_the_work_is_done(self) -> None:
        self.periodic.start()
        self.clock.advance(9)
        self.assertEqual(self.times, [])
        self.clock.advance(1)
        self.clock.advance(100)
        self.assertEqual(len(self.times), 1)
        self.pause = 3
        self.times[0].callback(None)
        self.clock.advance(3)
        self.assertEqual(len(self.times), 2)

    def test_at_once(self) -> None:
        self.periodic.start(at_once=True)
        self.assertEqual(len(self.times), 1)

    def test_soon(self) -> None:
        """In a pause it ends the pause; while the work is done it is done once more, however often it is said."""
        self.periodic.soon()
        self.assertEqual(self.times, [], "it was not started")
        self.periodic.start()
        self.periodic.soon()
        self.assertEqual(len(self.times), 1)
        self.periodic.soon()
        self.periodic.soon()
        self.times[0].callback(None)
        self.assertEqual(len(self.times), 2)
        self.times[1].callback(None)
        self.assertEqual(len(self.times), 2)
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [10])

    def test_what_fails_is_done_again(self) -> None:
        self.periodic.start(at_once=True)
        self.times[0].errback(ValueError("broken"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(10)
        self.assertEqual(len(self.times), 2)

    def test_stop_in_a_pause(self) -> None:
        self.periodic.start()
        self.successResultOf(self.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_cancels_the_work_and_waits_for_it(self) -> None:
        async def clean_up() -> None:
            try:
                await self.work()
            except CancelledError:
                await self.work()

        self.periodic = Periodic("work", clean_up, lambda: 10.0, self.clock)
        self.periodic.start(at_once=True)
        stopped = self.stop()
        self.assertNoResult(stopped)
        self.times[1].callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
