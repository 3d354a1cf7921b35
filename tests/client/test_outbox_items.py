"""client-tests.md C 31 and D 32 to 38: the queues of messages to the server, and what is withheld from it.

Each test runs without a spool and with one; the sizes and numbers are those of the list.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.client.spool.spool import Spool
from fleetspeak.client.stats import Stats
from fleetspeak.core.outbox import Entry, FlowFilter
from fleetspeak.core.spool import LARGEST_SEGMENT
from fleetspeak.pb import common
from fleetspeak.testing.spool import SameThread

HIGH, MEDIUM, LOW = common.Message.HIGH, common.Message.MEDIUM, common.Message.LOW
PLENTY = 1 << 40
PAYLOAD = b"\0" * 5


class Counting(Stats):
    """Counts as a collector does."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = self.pending_bytes = self.retries = 0

    def message_pending(self, message: common.Message, size: int) -> None:
        self.pending += 1
        self.pending_bytes += size

    def message_acknowledged(self, message: common.Message, size: int) -> None:
        self.pending -= 1
        self.pending_bytes -= size

    def message_retried(self, message: common.Message) -> None:
        self.retries += 1


class QueueItems(SynchronousTestCase):
    spooled = False

    def setUp(self) -> None:
        self.stats = Counting()
        self.outbox = ClientOutbox(stats=self.stats)

    def submit(self, name: str, payload: bytes = PAYLOAD) -> Deferred[None]:
        """The first letter of its name is its priority."""
        priority = {"L": LOW, "M": MEDIUM, "H": HIGH}[name[0]]
        message = common.Message(message_type=name, priority=priority)
        message.data.value = payload
        return self.outbox.submit(message, spool=self.spooled)

    def take(self, count: int = 1000) -> list[Entry]:
        return self.outbox.take(count, PLENTY)

    def names(self, entries: list[Entry]) -> list[str]:
        return [entry.message.message_type for entry in entries]

    def test_item_32_ten_messages_in_order_and_no_retries(self) -> None:
        names = [f"M{number}" for number in range(10)]
        for name in names:
            self.successResultOf(self.submit(name))
        taken = self.take()
        self.assertEqual(names, self.names(taken))
        self.outbox.ack(taken)
        self.assertEqual([], self.take())
        self.assertEqual(0, self.stats.retries)

    def test_item_33_all_nacked_come_again_in_order_and_count_as_ten_retries(self) -> None:
        names = [f"M{number}" for number in range(10)]
        for name in names:
            self.submit(name)
        self.outbox.nack(self.take())
        taken = self.take()
        self.assertEqual(names, self.names(taken))
        self.outbox.ack(taken)
        self.assertEqual([], self.take())
        self.assertEqual(10, self.stats.retries)

    def test_item_34_of_300_small_ones_exactly_100_fit_and_the_rest_flows(self) -> None:
        self.check_flow(300, PAYLOAD, 100)

    def test_item_34_of_30_with_a_mebibyte_exactly_20_fit_and_the_rest_flows(self) -> None:
        self.check_flow(30, bytes(1024 * 1024), 20)

    def check_flow(self, count: int, payload: bytes, fit: int) -> None:
        names = [f"M{number}" for number in range(count)]
        accepted = [self.submit(name, payload) for name in names]
        if not self.spooled:
            self.assertEqual(fit, sum(each.called for each in accepted))
        self.assertEqual(fit, self.outbox.pending(MEDIUM)[0])
        out: list[str] = []
        while taken := self.take(7):
            self.assertLessEqual(self.outbox.pending(MEDIUM)[0], fit)
            out += self.names(taken)
            self.outbox.ack(taken)
        self.assertEqual(names, out)
        for each in accepted:
            self.successResultOf(each)
        self.assertEqual(0, self.stats.retries)

    def test_item_35_pending_counts_ten_and_their_bytes_and_then_nothing(self) -> None:
        for number in range(10):
            self.submit(f"M{number}")
        taken = self.take()
        self.assertEqual(10, self.stats.pending)
        self.assertEqual(sum(entry.message.ByteSize() for entry in taken), self.stats.pending_bytes)
        self.outbox.ack(taken)
        self.assertEqual((0, 0), (self.stats.pending, self.stats.pending_bytes))

    def test_item_36_order_within_and_between_priorities(self) -> None:
        for name in ("L1", "M2", "H3", "H4", "M5", "L6"):
            self.submit(name)
        self.assertEqual(["H3", "H4", "M2", "M5", "L1", "L6"], self.names(self.take()))

    def test_item_31_the_flow_filter_is_read_back(self) -> None:
        self.assertEqual((False, False, False), self.outbox.flow_filter)
        for low, medium, high in ((True, False, False), (True, True, False), (True, True, True)):
            self.outbox.flow_filter = FlowFilter(low, medium, high)
            self.assertEqual((low, medium, high), self.outbox.flow_filter)

    def test_item_37_what_is_filtered_is_withheld_and_a_change_holds_at_once(self) -> None:
        self.outbox.flow_filter = FlowFilter(low=True, medium=True, high=True)
        for name in ("L1", "M1", "H1"):
            self.submit(name)
        ready = self.outbox.when_ready()
        self.assertNoResult(ready)
        self.assertEqual([], self.take())
        self.outbox.flow_filter = FlowFilter()
        self.successResultOf(ready)
        self.assertEqual(["H1", "M1", "L1"], self.names(self.take()))
        self.outbox.flow_filter = FlowFilter(low=True, medium=True, high=True)
        for name in ("L2", "M2", "H2"):
            self.submit(name)
        self.assertEqual([], self.take())
        self.outbox.flow_filter = FlowFilter(low=True)
        self.assertEqual(["H2", "M2"], self.names(self.take()))
        ready = self.outbox.when_ready()
        self.assertNoResult(ready)
        self.outbox.flow_filter = FlowFilter()
        self.successResultOf(ready)
        self.assertEqual(["L2"], self.names(self.take()))

    def test_item_38_at_the_end_what_is_held_is_drained_high_medium_low_and_waited_for(self) -> None:
        self.outbox.flow_filter = FlowFilter(low=True, medium=True, high=True)
        for name in ("L1", "M1", "H1"):
            self.submit(name)
        drained = self.outbox.drain()
        self.assertEqual(["H1", "M1"], self.names(self.take(2)))
        self.assertNoResult(drained)
        self.assertEqual(["L1"], self.names(self.take()))
        self.successResultOf(drained)

    def test_item_38_with_nothing_held_the_end_is_at_once(self) -> None:
        self.successResultOf(self.outbox.drain())


class SpooledQueueItems(QueueItems):
    """The same with messages of services, which go to the disk: there 300 are accepted, and a queue full is held."""

    spooled = True

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        files = SpoolFolder(Path(folder.name) / "state.spool", LARGEST_SEGMENT)
        self.addCleanup(files.close)
        self.outbox = ClientOutbox(spool=Spool(files, 256 << 20, SameThread(), Clock()), stats=self.stats)
        self.outbox.open()
