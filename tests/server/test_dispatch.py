"""Who has a stream here, and how it is woken (server-core 7, the dispatcher)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.ids import ClientId
from fleetspeak.server.dispatch import Dispatcher

ALICE = ClientId(b"alice-id")
BOB = ClientId(b"bob---id")


class DispatcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.dispatcher = Dispatcher()
        self.woken: list[str] = []

    def test_wakes_the_stream_of_the_client(self) -> None:
        self.dispatcher.register(ALICE, lambda: self.woken.append("alice"))
        self.dispatcher.register(BOB, lambda: self.woken.append("bob"))
        self.assertTrue(self.dispatcher.dispatch(BOB))
        self.assertEqual(self.woken, ["bob"])

    def test_section_7_an_unknown_client_is_nothing(self) -> None:
        self.assertFalse(self.dispatcher.dispatch(ALICE))

    def test_section_7_one_registration_for_each_client(self) -> None:
        """A newer one takes the place of the older one."""
        self.dispatcher.register(ALICE, lambda: self.woken.append("old"))
        self.dispatcher.register(ALICE, lambda: self.woken.append("new"))
        self.dispatcher.dispatch(ALICE)
        self.assertEqual(self.woken, ["new"])

    def test_the_end_of_an_older_stream_leaves_the_newer_one(self) -> None:
        old = self.dispatcher.register(ALICE, lambda: self.woken.append("old"))
        new = self.dispatcher.register(ALICE, lambda: self.woken.append("new"))
        old.cancel()
        self.assertTrue(self.dispatcher.dispatch(ALICE))
        new.cancel()
        new.cancel()
        self.assertFalse(self.dispatcher.dispatch(ALICE))
        self.assertEqual(self.woken, ["new"])
        self.assertEqual(len(self.dispatcher), 0)
