"""A pause that others may end."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.program.nap import Nap


class NapTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.nap = Nap(self.clock)

    def sleep(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.nap.sleep(5))

    def test_it_ends_by_itself(self) -> None:
        sleeping = self.sleep()
        self.clock.advance(4.9)
        self.assertNoResult(sleeping)
        self.clock.advance(0.1)
        self.successResultOf(sleeping)

    def test_it_is_ended(self) -> None:
        self.nap.wake()
        sleeping = self.sleep()
        self.assertNoResult(sleeping)
        self.nap.wake()
        self.nap.wake()
        self.successResultOf(sleeping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_it_is_cancelled(self) -> None:
        sleeping = self.sleep()
        sleeping.cancel()
        self.failureResultOf(sleeping, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
