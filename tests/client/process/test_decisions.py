"""The daemon's decisions: inactivity, what a dead process has not read, and the cutting of its output."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.process.handedover import MAX_REPEATS, Frame, HandedOver
from fleetspeak.client.process.schedule import InactivityWatch
from fleetspeak.client.process.stdoutput import (
    MAX_FLUSH_BYTES,
    STDERR,
    STDOUT,
    FlushRules,
    OutputGatherer,
    flush_rules,
)
from fleetspeak.pb import daemon, daemon_config

times = st.floats(0, 1e6, allow_nan=False)


class Inactivity(SynchronousTestCase):
    def test_without_a_limit_it_never_expires(self) -> None:
        watch = InactivityWatch(None, 0.0)
        self.assertIsNone(watch.deadline)
        self.assertFalse(watch.expired(1e9))

    @settings(max_examples=50)
    @given(times, st.lists(times, max_size=10), st.floats(0.001, 1000))
    def test_it_expires_exactly_the_limit_after_the_last_activity(
        self, start: float, events: list[float], limit: float
    ) -> None:
        watch = InactivityWatch(limit, start)
        last = start
        for last in sorted(event for event in events if event >= start):
            watch.active(last)
        assert watch.deadline is not None
        self.assertEqual(last + limit, watch.deadline)
        self.assertFalse(watch.expired(last))
        self.assertTrue(watch.expired(watch.deadline))


class LeftOver(SynchronousTestCase):
    def hand_over(self, handed_over: HandedOver, sizes: list[int]) -> list[tuple[int, Frame]]:
        """Frames of these sizes, with the end of each."""
        written, frames = 0, []
        for number, size in enumerate(sizes):
            frame = Frame(bytes((number,)) * size)
            written += size
            handed_over.add(frame, written)
            frames.append((written, frame))
        return frames

    @settings(max_examples=100)
    @given(st.lists(st.integers(1, 30), max_size=30), st.data())
    def test_whatever_the_process_has_not_read_to_its_end_comes_again_in_order(
        self, sizes: list[int], data: st.DataObject
    ) -> None:
        capacity = 50
        handed_over = HandedOver(capacity, 0)
        frames = self.hand_over(handed_over, sizes)
        written = sum(sizes)
        in_pipe = data.draw(st.integers(0, min(capacity, written)))
        expected = [frame for end, frame in frames if end > written - in_pipe]
        self.assertEqual(expected, handed_over.unread(written - in_pipe))

    @settings(max_examples=100)
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.data())
    def test_a_killed_process_may_not_have_dealt_with_the_last_that_it_read(
        self, sizes: list[int], data: st.DataObject
    ) -> None:
        """Nor with what it had in a buffer; all that comes once more, marked, in front of what it has not read."""
        capacity, read_ahead = 50, 20
        handed_over = HandedOver(capacity, read_ahead)
        frames = self.hand_over(handed_over, sizes)
        consumed = sum(sizes) - data.draw(st.integers(0, min(capacity, sum(sizes))))
        last = [end for end, _ in frames if end <= consumed][-1:]
        doubtful = [
            frame for end, frame in frames if end <= consumed and (end > consumed - read_ahead or [end] == last)
        ]
        unread = [frame for end, frame in frames if end > consumed]
        again = [Frame(frame.data, 1) for frame in doubtful]
        self.assertEqual(again + unread, handed_over.unfinished(consumed))

    def test_what_may_kill_the_process_is_not_repeated_for_ever(self) -> None:
        deadly = [Frame(b"deadly")]
        for repeats in range(1, MAX_REPEATS + 1):
            handed_over = HandedOver()
            handed_over.add(deadly[0], 6)
            deadly = handed_over.unfinished(6)
            self.assertEqual(deadly, [Frame(b"deadly", repeats)])
        handed_over = HandedOver()
        handed_over.add(deadly[0], 6)
        self.assertEqual(handed_over.unfinished(6), [])

    def test_it_remembers_little_more_than_a_pipe_holds(self) -> None:
        handed_over = HandedOver(100, 20)
        for end in range(10, 10_000, 10):
            handed_over.add(Frame(bytes(10)), end)
        self.assertEqual(13, len(handed_over.unread(0)))


class Output(SynchronousTestCase):
    def test_rules_of_the_configuration(self) -> None:
        params = daemon_config.Config.StdParams
        self.assertEqual(FlushRules(MAX_FLUSH_BYTES, 60.0), flush_rules(params()))
        self.assertEqual(FlushRules(MAX_FLUSH_BYTES, 60.0), flush_rules(params(flush_bytes=-1, flush_time_seconds=-1)))
        self.assertEqual(FlushRules(MAX_FLUSH_BYTES, 5.0), flush_rules(params(flush_bytes=2**21, flush_time_seconds=5)))
        self.assertEqual(FlushRules(1024, 60.0), flush_rules(params(flush_bytes=1024)))

    def test_it_waits_no_longer_than_the_rules_say(self) -> None:
        gatherer = OutputGatherer(FlushRules(100, 5.0))
        self.assertIsNone(gatherer.deadline)
        gatherer.add(STDOUT, b"a", 10.0)
        gatherer.add(STDERR, b"b", 14.0)
        self.assertEqual(15.0, gatherer.deadline)
        self.assertEqual([daemon.StdOutputData(stdout=b"a", stderr=b"b")], gatherer.flush())
        self.assertIsNone(gatherer.deadline)
        self.assertEqual([], gatherer.flush())

    def test_exactly_as_much_as_fits_still_waits(self) -> None:
        gatherer = OutputGatherer(FlushRules(4, 5.0))
        self.assertEqual([], gatherer.add(STDOUT, b"1234", 0.0))
        self.assertEqual([daemon.StdOutputData(stdout=b"1234")], gatherer.add(STDERR, b"5", 0.0))

    @settings(max_examples=100)
    @given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=50))), st.integers(1, 40))
    def test_nothing_is_lost_reordered_empty_or_over_the_limit(
        self, writes: list[tuple[int, bytes]], limit: int
    ) -> None:
        gatherer = OutputGatherer(FlushRules(limit, 5.0))
        sent = [record for stream, data in writes for record in gatherer.add(stream, data, 0.0)]
        for record in sent:
            self.assertEqual(limit, len(record.stdout) + len(record.stderr))
        sent += gatherer.flush()
        self.assertEqual(list(range(len(sent))), [record.message_index for record in sent])
        for record in sent:
            self.assertTrue(0 < len(record.stdout) + len(record.stderr) <= limit)
        for stream, got in (
            (STDOUT, b"".join(record.stdout for record in sent)),
            (STDERR, b"".join(record.stderr for record in sent)),
        ):
            self.assertEqual(b"".join(data for name, data in writes if name == stream), got)
