"""Waiting for the first of several things."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms.waiting import Bell, first_of, sleep


class FirstOfTests(SynchronousTestCase):
    def test_the_first_decides_and_the_others_are_cancelled(self) -> None:
        for winner in (0, 1):
            cancelled: list[Deferred[None]] = []
            waits: list[Deferred[None]] = [Deferred(cancelled.append), Deferred(cancelled.append)]
            first = first_of(waits)
            self.assertNoResult(first)
            waits[winner].callback(None)
            self.assertIsNone(self.successResultOf(first))
            self.assertEqual(cancelled, [waits[1 - winner]])

    def test_a_failure_decides_too(self) -> None:
        waits: list[Deferred[None]] = [Deferred(), Deferred()]
        first = first_of(waits)
        waits[1].errback(ZeroDivisionError())
        self.failureResultOf(first, ZeroDivisionError)

    def test_cancelling_cancels_all(self) -> None:
        clock = Clock()
        first = first_of([sleep(clock, 1), sleep(clock, 2), Bell().wait()])
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_one_that_has_fired_already_wins_at_once(self) -> None:
        bell = Bell()
        bell.ring()
        clock = Clock()
        self.successResultOf(first_of([sleep(clock, 1), bell.wait()]))
        self.assertEqual(clock.getDelayedCalls(), [])
