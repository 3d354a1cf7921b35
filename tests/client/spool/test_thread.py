"""The thread of the spool, with the real reactor and the real disk."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.spool.files import Files
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.client.spool.spool import Spool
from fleetspeak.client.spool.thread import SpoolThread
from fleetspeak.core.spool import LARGEST_SEGMENT
from tests.client.process.children import until
from tests.client.spool.cases import MEDIUM, PLENTY, labels, message


class SlowFiles(Files):
    """A disk whose fsync ends when the test says so."""

    def __init__(self) -> None:
        self.may_end = threading.Semaphore(0)
        self.syncs = 0

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        assert self.may_end.acquire(timeout=30)
        os.fsync(descriptor)


class QuickFiles(Files):
    """A disk that takes no time."""

    def sync(self, descriptor: int) -> None:
        """Done."""


class Threads(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "state.spool"

    def outbox(self, files: Files | None = None) -> ClientOutbox:
        folder = SpoolFolder(self.path, LARGEST_SEGMENT, files)
        outbox = ClientOutbox(spool=Spool(folder, 64 << 20, SpoolThread(reactor), reactor))
        outbox.open()
        self.addCleanup(outbox.close)
        return outbox

    async def test_what_comes_while_an_fsync_runs_shares_the_next_one(self) -> None:
        files = SlowFiles()
        outbox = self.outbox(files)
        first = outbox.submit(message("first"), spool=True)
        await until(lambda: files.syncs == 1)
        others = [outbox.submit(message(str(number)), spool=True) for number in range(500)]
        self.assertFalse(first.called)
        files.may_end.release()
        await first
        self.assertFalse(any(other.called for other in others))
        await until(lambda: files.syncs == 2)
        files.may_end.release()
        await gatherResults(others)
        self.assertEqual(2, files.syncs)
        await outbox.close()

    async def test_nothing_but_the_disk_is_waited_for(self) -> None:
        """There is no timer: far from the 50 ms that a message may be late."""
        outbox = self.outbox(QuickFiles())
        await outbox.submit(message("warm up"), spool=True)
        waits = []
        for number in range(20):
            began = time.monotonic()
            await outbox.submit(message(str(number)), spool=True)
            waits.append(time.monotonic() - began)
        self.assertLess(sorted(waits)[10], 0.05)
        await outbox.close()

    async def test_messages_are_read_back_by_the_thread_and_all_come(self) -> None:
        outbox = self.outbox()
        await gatherResults([outbox.submit(message(str(number)), spool=True) for number in range(1000)])
        await outbox.close()
        outbox = self.outbox()
        out: list[str] = []
        while len(out) < 1000:
            await outbox.when_ready()
            taken = outbox.take(30, PLENTY)
            out += labels(taken)
            self.assertLessEqual(outbox.pending(MEDIUM)[0], 100)
            outbox.ack(taken)
        self.assertEqual([str(number) for number in range(1000)], out)
        await outbox.close()

    async def test_the_end_waits_for_what_is_being_written_and_leaves_no_thread(self) -> None:
        files = SlowFiles()
        outbox = self.outbox(files)
        accepted = outbox.submit(message("a"), spool=True)
        closed = outbox.close()
        files.may_end.release(10)
        await closed
        self.assertTrue(accepted.called)
        await accepted
        self.assertNotIn("fleetspeak spool", [thread.name for thread in threading.enumerate()])
