"""Messages that a process has not dealt with: kept for the next one, whoever ends meanwhile."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.process.handedover import Frame
from fleetspeak.client.process.leftover import FileShelf, LeftOver, LeftOvers

FIRST, SECOND, THIRD = Frame(b"first"), Frame(b"second", repeats=1), Frame(b"third", repeats=2)


class LeftOverCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "unread"
        self.left_over = self.after_a_restart()

    def after_a_restart(self, service: str = "hello") -> LeftOver:
        """What another run of the client finds."""
        left_over = LeftOvers(self.folder, execute).of(service)
        self.successResultOf(Deferred.fromCoroutine(left_over.load()))
        return left_over

    def put_back(self, *frames: Frame) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.left_over.put_back(frames)))

    def take_all(self, left_over: LeftOver) -> list[Frame]:
        taken = []
        while left_over:
            taken.append(left_over.first)
            self.successResultOf(Deferred.fromCoroutine(left_over.delivered()))
        return taken


class Keeping(LeftOverCase):
    def test_nothing_is_left_over_at_first(self) -> None:
        self.assertFalse(self.left_over)
        self.assertFalse(self.folder.exists())

    def test_what_a_process_left_goes_to_the_next_one_in_order(self) -> None:
        self.put_back(SECOND, THIRD)
        self.put_back(FIRST)
        self.assertEqual([FIRST, SECOND, THIRD], self.take_all(self.left_over))

    def test_it_outlives_the_client(self) -> None:
        self.put_back(FIRST, SECOND, THIRD)
        self.assertEqual([FIRST, SECOND, THIRD], self.take_all(self.after_a_restart()))

    def test_it_comes_again_until_all_is_delivered_and_then_no_more(self) -> None:
        self.put_back(FIRST, SECOND)
        self.successResultOf(Deferred.fromCoroutine(self.left_over.delivered()))
        self.assertEqual(2, len(self.after_a_restart()))
        self.successResultOf(Deferred.fromCoroutine(self.left_over.delivered()))
        self.assertEqual(0, len(self.after_a_restart()))
        self.assertEqual([], list(self.folder.iterdir()))

    def test_another_instance_of_the_service_goes_on_with_it(self) -> None:
        left_overs = LeftOvers(None, execute)
        self.left_over = left_overs.of("hello")
        self.put_back(FIRST)
        again = left_overs.of("hello")
        self.successResultOf(Deferred.fromCoroutine(again.load()))
        self.assertEqual([FIRST], self.take_all(again))

    def test_services_with_any_names_do_not_meet(self) -> None:
        names = ["a/b", "a", "../a", "A" * 500, "A" * 501, "\u00e4"]
        for name in names:
            self.left_over = self.after_a_restart(name)
            self.put_back(Frame(name.encode()))
        self.assertEqual(
            [[Frame(name.encode())] for name in names], [self.take_all(self.after_a_restart(name)) for name in names]
        )
        self.assertEqual([self.folder], list(self.folder.parent.iterdir()))

    def test_only_the_client_can_read_it(self) -> None:
        self.put_back(FIRST)
        (path,) = self.folder.iterdir()
        self.assertEqual((0o700, 0o600), (self.folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777))


class Trouble(LeftOverCase):
    def test_a_disk_that_takes_nothing_is_reported_and_the_messages_stay(self) -> None:
        self.folder.write_text("no folder")
        with capturedLogs() as logs:
            self.put_back(FIRST)
        self.assertEqual([LogLevel.error], [event["log_level"] for event in logs])
        self.assertEqual([FIRST], self.take_all(self.left_over))

    def test_a_file_that_cannot_be_read_is_reported(self) -> None:
        (self.folder / "hello").mkdir(parents=True)
        with capturedLogs() as logs:
            left_over = self.after_a_restart()
        self.assertEqual([LogLevel.error], [event["log_level"] for event in logs])
        self.assertFalse(left_over)

    @given(
        st.lists(st.binary(max_size=40), min_size=1, max_size=5),
        st.integers(0, 400),
        st.one_of(st.none(), st.integers(1, 255)),
    )
    def test_damage_costs_the_messages_that_it_hits(self, bodies: list[bytes], at: int, flip: int | None) -> None:
        with tempfile.TemporaryDirectory() as name:
            shelf = FileShelf(Path(name) / "unread", "hello")
            frames = [Frame(body) for body in bodies]
            shelf.write(frames)
            (path,) = (Path(name) / "unread").iterdir()
            data = bytearray(path.read_bytes())
            if flip is None:
                os.truncate(path, min(at, len(data)))
            else:
                data[at % len(data)] ^= flip
                path.write_bytes(data)
            read = shelf.read()
        rest = iter(frames)
        self.assertTrue(all(frame in rest for frame in read), "nothing else, and in order")
        if flip is not None:
            self.assertEqual(len(frames) - 1, len(read))
