"""Files in memory, for as long as they are sent."""

from __future__ import annotations

import gc

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import NotFound, NotReady
from fleetspeak.records import StoredFile
from fleetspeak.server.files import Content, StoredFiles
from fleetspeak.store.memory import MemoryStore


class SlowStore(MemoryStore):
    """Reads when it is told."""

    def __init__(self) -> None:
        super().__init__(now_ns=lambda: 7)
        self.reads: list[Deferred[StoredFile]] = []
        self.open()

    def read_file(self, service: str, name: str) -> Deferred[StoredFile]:
        waiting: Deferred[StoredFile] = Deferred()
        waiting.addCallback(lambda _: super(SlowStore, self).read_file(service, name))
        self.reads.append(waiting)
        return waiting


class StoredFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = SlowStore()
        self.store.store_file("S", "n", b"content")
        self.files = StoredFiles(self.store, max_held=10)

    def read(self, name: str = "n") -> Deferred[Content]:
        return self.files.read("S", name, 7)

    def go_on(self) -> None:
        self.store.reads.pop(0).callback(None)  # type: ignore[arg-type]

    def test_many_share_one_read(self) -> None:
        calls = [self.read() for _ in range(3)]
        self.assertEqual(len(self.store.reads), 1)
        self.go_on()
        first, *others = [self.successResultOf(call) for call in calls]
        self.assertEqual(first.file.data, b"content")
        self.assertTrue(all(other is first for other in others))
        self.assertIs(self.successResultOf(self.read()), first)
        self.assertEqual(self.store.reads, [])

    def test_it_is_forgotten_when_nobody_sends_it(self) -> None:
        call = self.read()
        self.go_on()
        self.successResultOf(call)
        del call
        gc.collect()
        self.assertNoResult(self.read())
        self.assertEqual(len(self.store.reads), 1)

    def test_a_newer_one_is_read(self) -> None:
        call = self.read()
        self.go_on()
        held = self.successResultOf(call)
        self.assertNoResult(self.files.read("S", "n", 8))
        self.assertEqual(held.file.modified_ns, 7)

    def test_who_goes_takes_nothing_from_the_others(self) -> None:
        gone, stays = self.read(), self.read()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.go_on()
        self.successResultOf(stays)

    def test_a_missing_file(self) -> None:
        calls = [self.read("missing"), self.read("missing")]
        self.go_on()
        for call in calls:
            self.failureResultOf(call, NotFound)
        self.assertNoResult(self.read("missing"))

    def test_memory_is_bounded(self) -> None:
        """What is being sent goes on, and nothing more is read."""
        held = []
        self.store.store_file("S", "n2", b"content")
        for name in ("n", "n2"):
            call = self.read(name)
            self.go_on()
            held.append(self.successResultOf(call))
        self.store.store_file("S", "n3", b"content")
        self.failureResultOf(self.read("n3"), NotReady)
        self.successResultOf(self.read("n"))
        held.clear()
        del call
        gc.collect()
        self.assertNoResult(self.read("n3"))
