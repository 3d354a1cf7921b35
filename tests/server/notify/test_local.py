"""A server without others (server-core 7, the table's first row)."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IListener, INotifier
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.notify.local import LocalListener, LocalNotifier

ALICE = ClientId(b"alice-id")


class LocalNotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.woken: list[str] = []
        self.clock = Clock()
        dispatcher = Dispatcher()
        dispatcher.register(ALICE, lambda: self.woken.append("alice"))
        self.notifier = LocalNotifier(dispatcher, self.clock)

    def test_interfaces(self) -> None:
        verifyObject(INotifier, self.notifier)
        verifyObject(IListener, LocalListener())
        self.assertEqual(LocalListener().address, "local")

    def test_hands_over_in_the_process(self) -> None:
        self.notifier.notify("local", ALICE)
        self.assertEqual(self.woken, ["alice"])

    def test_another_address_is_a_warning(self) -> None:
        """One a minute."""
        with capturedLogs() as events:
            for seconds in (0, 1, 60):
                self.clock.advance(seconds)
                self.notifier.notify("10.0.0.5:8081", ALICE)
        self.assertEqual(self.woken, [])
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn] * 2)
        self.assertEqual([event["held_back"] for event in events], [0, 1])
