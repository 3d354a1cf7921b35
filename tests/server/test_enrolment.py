"""Whether enrolment is open: looked at now and then, and at once when told."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import StoreError
from fleetspeak.server.enrolment import LOOK, SETTING, Enrolment, Mode
from fleetspeak.store.memory import MemoryStore


class ModeTests(SynchronousTestCase):
    def test_modes(self) -> None:
        """Nobody who understands less than all lets anybody in."""
        self.assertIs(Mode.of({}), Mode.OPEN)
        self.assertIs(Mode.of({SETTING: "OPEN"}), Mode.OPEN)
        self.assertIs(Mode.of({SETTING: "CLOSED"}), Mode.CLOSED)
        self.assertIs(Mode.of({SETTING: "ON_TUESDAYS"}), Mode.CLOSED)


class EnrolmentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.successResultOf(self.store.open())
        self.enrolment = Enrolment(self.store, self.clock)

    def start(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.enrolment.start()))
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.enrolment.stop())))

    def put(self, mode: str) -> None:
        self.successResultOf(self.store.set_setting(SETTING, mode))

    def test_it_is_known_before_the_first_client_comes(self) -> None:
        self.put("CLOSED")
        self.start()
        self.assertFalse(self.enrolment.is_open)

    def test_nothing_is_let_in_without_a_store(self) -> None:
        self.store.settings = lambda: fail(StoreError("no database"))  # type: ignore[method-assign]
        self.failureResultOf(Deferred.fromCoroutine(self.enrolment.start()), StoreError)
        self.assertFalse(self.enrolment.is_open)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_another_server_was_told(self) -> None:
        self.start()
        self.assertTrue(self.enrolment.is_open)
        self.put("CLOSED")
        self.clock.advance(LOOK)
        self.assertFalse(self.enrolment.is_open)
        self.put("OPEN")
        self.clock.advance(LOOK)
        self.assertTrue(self.enrolment.is_open)

    def test_what_this_server_was_told(self) -> None:
        self.start()
        self.put("CLOSED")
        self.enrolment.look_soon()
        self.assertFalse(self.enrolment.is_open)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_told_while_it_looks(self) -> None:
        """The answer may be older than what it was told."""
        self.start()
        answers: list[Deferred[dict[str, str]]] = []

        def ask() -> Deferred[dict[str, str]]:
            answers.append(Deferred())
            return answers[-1]

        self.store.settings = ask  # type: ignore[method-assign]
        self.clock.advance(LOOK)
        self.enrolment.look_soon()
        self.assertEqual(len(answers), 1)
        answers[0].callback({})
        self.assertEqual(len(answers), 2)
        answers[1].callback({SETTING: "CLOSED"})
        self.assertFalse(self.enrolment.is_open)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_a_store_that_fails_changes_nothing_and_is_told_of_once(self) -> None:
        self.start()
        right: Any = self.store.settings
        self.store.settings = lambda: fail(StoreError("no database"))  # type: ignore[method-assign]
        with capturedLogs() as logs:
            for _ in range(5):
                self.clock.advance(LOOK)
        self.assertEqual(len(logs), 1)
        self.assertTrue(self.enrolment.is_open)
        self.put("CLOSED")
        self.store.settings = right  # type: ignore[method-assign]
        self.clock.advance(LOOK)
        self.assertFalse(self.enrolment.is_open)

    def test_a_stop_during_a_look(self) -> None:
        self.start()
        cancelled: list[object] = []
        self.store.settings = lambda: Deferred(cancelled.append)  # type: ignore[method-assign]
        self.clock.advance(LOOK)
        self.successResultOf(Deferred.fromCoroutine(self.enrolment.stop()))
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.flushLoggedErrors()

    def test_told_where_nobody_looks(self) -> None:
        """An endpoint of its own for the API."""
        self.enrolment.look_soon()
        self.assertEqual(self.clock.getDelayedCalls(), [])
