"""What a process tells of itself: stacks, heap, and the files they go to."""

from __future__ import annotations

import os
import re
import threading
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.program import dumps


class StacksTests(SynchronousTestCase):
    def test_every_thread_is_there_with_its_name_and_the_main_one_first(self) -> None:
        ready, done = threading.Event(), threading.Event()

        def wait_in_the_second_thread() -> None:
            ready.set()
            done.wait(30)

        thread = threading.Thread(target=wait_in_the_second_thread, name="second")
        thread.start()
        ready.wait(30)
        text = dumps.stacks()
        done.set()
        thread.join()
        self.assertLess(text.index("(MainThread)"), text.index("(second)"))
        self.assertIn("in wait_in_the_second_thread", text)

    def test_what_the_reactor_has_still_to_do(self) -> None:
        clock = Clock()
        clock.callLater(20, dumps.stacks)
        clock.callLater(10, dumps.heap)
        text = dumps.pending_calls(clock)
        self.assertLess(text.index("function heap"), text.index("function stacks"))
        self.assertIn("in     10.0 s", text)

    def test_a_reactor_that_cannot_tell_is_no_failure(self) -> None:
        self.assertIn("cannot be told", dumps.pending_calls(None))


class HeapTests(SynchronousTestCase):
    def test_it_counts_objects_and_their_bytes_by_type(self) -> None:
        class Conspicuous(list[bytes]):
            pass

        kept = [Conspicuous([os.urandom(10_000)] * 1000) for _ in range(777)]
        rows = re.findall(r"^ *(\d+) +(\d+)  (\S+)$", dumps.heap(), re.M)
        counts = {kind: (int(size), int(count)) for size, count, kind in rows}
        self.assertEqual(counts[f"{__name__}.{Conspicuous.__qualname__}"][1], len(kept))
        self.assertGreater(counts["builtins.bytes"][0], 777 * 10_000)

    def test_with_tracemalloc_it_says_where_memory_was_allocated(self) -> None:
        self.patch(dumps, "_objects", list)  # counting them while memory is traced takes seconds
        self.assertIn("PYTHONTRACEMALLOC", dumps.heap())
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        kept = [os.urandom(1_000_000)]
        self.assertRegex(dumps.heap(), rf"\n *\d+ +\d+  {re.escape(__file__)}:\d+")
        del kept


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_the_name_is_upstreams_and_nobody_else_can_read_it(self) -> None:
        path = dumps.dump(self.folder, "heap", "text")
        self.assertRegex(path.name, rf"^fleetspeakd-heap-pprof-{os.getpid()}-\d{{4}}-\d\d-\d\d-\d\d-\d\d-\d\d\.\d\d\d$")
        self.assertEqual((path.read_text(), path.stat().st_mode & 0o777), ("text", 0o600))

    def test_a_file_that_is_there_is_not_touched(self) -> None:
        self.patch(dumps.time, "time", lambda: 1_700_000_000.5)
        path = dumps.dump(self.folder, "heap", "first")
        self.assertRaises(FileExistsError, dumps.dump, self.folder, "heap", "second")
        self.assertEqual(path.read_text(), "first")

    def test_a_folder_that_is_not_there_is_an_error(self) -> None:
        self.assertRaises(OSError, dumps.dump, self.folder / "none", "heap", "text")
