from __future__ import annotations

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.ids import ClientId
from fleetspeak.interfaces import INotifier
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.notify.local import LocalNotifier

ALICE = ClientId(b"alice-id")


class LocalNotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.woken: list[str] = []
        dispatcher = Dispatcher()
        dispatcher.register(ALICE, lambda: self.woken.append("alice"))
        self.notifier = LocalNotifier(dispatcher)

    def test_interface(self) -> None:
        verifyObject(INotifier, self.notifier)

    def test_hands_over_in_the_process(self) -> None:
        self.assertIsNone(self.notifier.notify("local", ALICE))
        self.assertEqual(self.woken, ["alice"])

    def test_another_address_is_a_warning(self) -> None:
        with capturedLogs() as events:
            self.notifier.notify("10.0.0.5:8081", ALICE)
        self.assertEqual(self.woken, [])
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])
