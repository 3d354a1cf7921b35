from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.server.https.running import Running


class RunningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.running = Running()

    def test_idle_at_first(self) -> None:
        self.successResultOf(self.running.when_idle())

    def test_waits_for_all(self) -> None:
        first: Deferred[int] = Deferred()
        second: Deferred[int] = Deferred()
        self.running.track(first)
        self.running.track(second)
        idle = self.running.when_idle()
        first.callback(1)
        self.assertNoResult(idle)
        second.callback(2)
        self.successResultOf(idle)
        self.assertEqual(self.successResultOf(first), 1)

    def test_failures_stay_with_their_owner(self) -> None:
        work: Deferred[int] = Deferred()
        self.running.track(work)
        work.errback(ZeroDivisionError())
        self.failureResultOf(work, ZeroDivisionError)
        self.assertEqual(len(self.running), 0)

    def test_cancel(self) -> None:
        work: Deferred[int] = Deferred()
        self.running.track(work)
        self.running.cancel()
        self.failureResultOf(work, CancelledError)
        self.successResultOf(self.running.when_idle())
