"""Bodies on their way to a slow disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from fleetspeak.client import partialfile
from fleetspeak.client.download import MAX_WAITING, BodyToDisk, Disk, DiskProblem
from fleetspeak.client.partialfile import PartialFile
from fleetspeak.core.download import Version
from fleetspeak.errors import TooLarge

STEPS = st.sampled_from(["write", "keep", "crash", "begin"])
VERSION = Version(None, 7, '"v"')


class SlowThread:
    """Calls are made when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[..., Any], /, *args: Any) -> Deferred[Any]:
        outcome: Deferred[Any] = Deferred()

        def carry_out() -> None:
            try:
                outcome.callback(call(*args))
            except OSError:
                outcome.errback(Failure())

        self.calls.append(carry_out)
        return outcome

    def catch_up(self) -> None:
        while self.calls:
            self.calls.pop(0)()


class FolderCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.target = Path(folder.name) / "target"

    def part(self) -> PartialFile:
        part = PartialFile(self.target, "/files/S/n")
        part.open()
        return part

    def names(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir())


class BodyToDiskTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.thread, self.transport = SlowThread(), StringTransport()
        self.disk = Disk(self.part(), self.target, self.thread)
        self.disk.file.begin(VERSION)
        self.body = BodyToDisk(self.disk, 10 * MAX_WAITING)
        self.body.makeConnection(self.transport)

    def lose(self, error: Exception) -> None:
        self.body.connectionLost(Failure(error))

    def test_a_disk_that_is_slow_stops_the_reading(self) -> None:
        self.body.dataReceived(b"the disk is busy with this one")
        self.body.dataReceived(b"x" * MAX_WAITING)
        self.assertEqual(self.transport.producerState, "producing")
        self.body.dataReceived(b"x")
        self.assertEqual(self.transport.producerState, "paused")
        self.thread.catch_up()
        self.assertEqual(self.transport.producerState, "producing")

    def test_small_pieces_that_come_while_the_disk_is_busy_are_written_together(self) -> None:
        for _ in range(1000):
            self.body.dataReceived(b"x")
        self.lose(ResponseDone())
        calls = 0
        while self.thread.calls:
            self.thread.calls.pop(0)()
            calls += 1
        self.assertEqual((calls, self.disk.file.size), (2, 1000))
        self.successResultOf(self.body.done)

    def test_it_is_done_when_all_is_written(self) -> None:
        self.body.dataReceived(b"abc")
        self.lose(ResponseDone())
        self.assertNoResult(self.body.done)
        self.thread.catch_up()
        self.successResultOf(self.body.done)
        self.assertEqual(self.disk.file.size, 3)

    def test_what_came_before_a_break_is_written(self) -> None:
        self.body.dataReceived(b"abc")
        self.lose(ConnectionLost())
        self.assertNoResult(self.body.done)
        self.thread.catch_up()
        self.failureResultOf(self.body.done, ConnectionLost)
        self.assertEqual(self.disk.file.size, 3)

    def test_a_disk_that_is_full(self) -> None:
        def full(data: bytes) -> None:
            raise OSError(28, "No space left on device")

        self.disk.file.write = full  # type: ignore[method-assign]
        self.body.dataReceived(b"abc")
        self.thread.catch_up()
        self.assertIn("No space left", str(self.failureResultOf(self.body.done, DiskProblem).value))
        self.assertEqual(self.transport.producerState, "stopped")
        self.body.dataReceived(b"more")
        self.lose(ConnectionLost())

    def test_more_than_may_come(self) -> None:
        body = BodyToDisk(self.disk, 3)
        body.makeConnection(self.transport)
        body.dataReceived(b"abcd")
        self.failureResultOf(body.done, TooLarge)
        self.assertEqual(self.transport.producerState, "stopped")
        self.assertEqual(self.thread.calls, [])

    def test_whoever_waits_may_give_up_and_the_line_goes_on(self) -> None:
        first, second = self.disk.run(lambda: None), self.disk.settled()
        first.cancel()
        self.failureResultOf(first)
        self.assertNoResult(second)
        self.thread.catch_up()
        self.successResultOf(second)


class PartialFileTests(FolderCase):
    def test_a_crash_between_two_checkpoints_costs_what_came_after_the_first(self) -> None:
        self.patch(partialfile, "CHECKPOINT", 10)
        part = self.part()
        part.begin(VERSION)
        part.write(b"0123456789")
        part.write(b"abc")
        again = self.part()  # the first one was never closed
        assert again.kept is not None
        self.assertEqual((again.kept.size, again.kept.version), (10, VERSION))
        again.write(b"xyz")
        again.finish()
        self.assertEqual(self.target.read_bytes(), b"0123456789xyz")
        self.assertEqual(self.names(), ["target"])

    def test_what_cannot_be_told_from_another_version_is_not_kept(self) -> None:
        part = self.part()
        part.begin(Version(10, 7, ""))
        part.write(b"abc")
        part.keep()
        self.assertEqual(self.names(), [])

    @given(
        st.lists(st.tuples(st.sampled_from(["write", "keep", "crash", "begin"]), st.binary(max_size=8)), max_size=12)
    )
    def test_what_is_gone_on_with_is_always_the_beginning(self, steps: list[tuple[str, bytes]]) -> None:
        self.patch(partialfile, "CHECKPOINT", 6)
        part, written = self.part(), b""
        part.begin(VERSION)
        for step, data in steps:
            if step == "write":
                part.write(data)
                written += data
            elif step == "begin":
                part.begin(VERSION)
                written = b""
            else:
                if step == "keep":
                    part.keep()
                part = self.part()
                size = part.size
                self.assertLessEqual(size, len(written))
                self.assertTrue(step == "crash" or size == len(written))
                written = written[:size]
                if part.kept is None:
                    part.begin(VERSION)
        part.finish()
        self.assertEqual(self.target.read_bytes(), written)
