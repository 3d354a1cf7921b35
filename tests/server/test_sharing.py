"""Work that is done once for all who ask."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.server.sharing import Shared


class SharedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.works: list[Deferred[str]] = []
        self.shared = Shared(self.begin, 5, self.clock.seconds)

    def begin(self) -> Deferred[str]:
        self.works.append(Deferred())
        return self.works[-1]

    def test_all_who_ask_meanwhile_share_one_piece_of_work(self) -> None:
        asked = [self.shared.get() for _ in range(3)]
        self.works[0].callback("done")
        self.assertEqual([self.successResultOf(one) for one in asked], ["done"] * 3)
        self.assertEqual(len(self.works), 1)

    def test_the_result_counts_for_a_while_then_there_is_new_work(self) -> None:
        self.shared.get()
        self.works[0].callback("old")
        self.clock.advance(4.9)
        self.assertEqual(self.successResultOf(self.shared.get()), "old")
        self.clock.advance(0.1)
        asked = self.shared.get()
        self.works[1].callback("new")
        self.assertEqual(self.successResultOf(asked), "new")

    def test_a_failure_is_for_those_who_wait_only(self) -> None:
        asked = [self.shared.get() for _ in range(2)]
        self.works[0].errback(RuntimeError("broken"))
        for one in asked:
            self.failureResultOf(one, RuntimeError)
        self.shared.get()
        self.assertEqual(len(self.works), 2)

    def test_whoever_gives_up_takes_nothing_from_the_others(self) -> None:
        gone, waiting = self.shared.get(), self.shared.get()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.works[0].callback("done")
        self.assertEqual(self.successResultOf(waiting), "done")
