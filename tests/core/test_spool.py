"""Decisions about the disk: room for each priority, and what is read and deleted when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.outbox import ORDER
from fleetspeak.core.spool import LARGEST_SEGMENT, SHARES, SMALLEST_SEGMENT, SpoolLedger, segment_size
from fleetspeak.core.stored import Priority, Segment, Stored
from fleetspeak.pb import common
from fleetspeak.wire.spoolrecords import HEADER, Record

HIGH, MEDIUM, LOW = common.Message.HIGH, common.Message.MEDIUM, common.Message.LOW
LIMIT = 1_000_000


class Room(SynchronousTestCase):
    def fill(self, ledger: SpoolLedger, priority: Priority, size: int = 1000) -> int:
        """As much as there is room for; returns the bytes."""
        total = 0
        while ledger.accepts(priority, size):
            ledger.begin(priority, size)
            total += size + HEADER
        return total

    @given(st.lists(st.tuples(st.sampled_from(ORDER), st.integers(0, 400_000)), max_size=60), st.sampled_from(ORDER))
    def test_no_priority_takes_the_room_of_a_higher_one(self, sent: list[tuple[Priority, int]], then: Priority) -> None:
        ledger = SpoolLedger(LIMIT)
        used = dict.fromkeys(ORDER, 0)
        for priority, size in sent:
            if ledger.accepts(priority, size):
                ledger.begin(priority, size)
                used[priority] += size + HEADER
        self.assertLessEqual(sum(used.values()), LIMIT)
        self.assertLessEqual(used[LOW] + used[MEDIUM], LIMIT * 3 // 4)
        self.assertLessEqual(used[LOW], LIMIT // 2)
        self.assertEqual(sum(used.values()), ledger.used)
        mine = self.fill(ledger, then)
        room = min(
            int(SHARES[level] * LIMIT) - sum(used[each] for each in ORDER[ORDER.index(level) :])
            for level in ORDER[: ORDER.index(then) + 1]
        )
        self.assertTrue(room - 1000 - HEADER < mine <= room or mine == 0, (mine, room))

    def test_what_no_empty_disk_has_room_for(self) -> None:
        ledger = SpoolLedger(LIMIT)
        self.assertTrue(ledger.could_accept(LOW, LIMIT // 2 - HEADER))
        self.assertFalse(ledger.could_accept(LOW, LIMIT // 2 - HEADER + 1))
        self.assertTrue(ledger.could_accept(HIGH, LIMIT - HEADER))

    def test_what_is_taken_back_makes_room(self) -> None:
        ledger = SpoolLedger(LIMIT)
        self.fill(ledger, HIGH)
        ledger.drop(HIGH, 1000)
        self.assertTrue(ledger.accepts(HIGH, 1000))

    def test_segments_fit_the_limit(self) -> None:
        self.assertEqual(LARGEST_SEGMENT, segment_size(256 << 20))
        self.assertEqual(1 << 20, segment_size(64 << 20))
        self.assertEqual(SMALLEST_SEGMENT, segment_size(1))


class Lanes(SynchronousTestCase):
    """Records of 76 bytes and their 24, in segments of any size."""

    def setUp(self) -> None:
        self.ledger = SpoolLedger(LIMIT)
        self.number = 0

    def write(self, segment: Segment, *, keep: bool = False) -> Stored:
        self.number += 1
        self.ledger.begin(MEDIUM, 76)
        stored = self.ledger.written(MEDIUM, self.number, 76, segment, segment.size + 100)
        if keep:
            self.ledger.keep(stored)
        return stored

    def read(self, count: int = 100) -> list[int]:
        reading = self.ledger.next_reading(MEDIUM)
        if reading is None:
            return []
        first = reading.segment.first + reading.start // 100
        there = (reading.end - reading.start) // 100
        records = [Record(first + n, bytes(76), (n + 1) * 100) for n in range(min(count, there))]
        self.stored = [stored for stored, _ in self.ledger.read(reading, records, len(records) * 100)]
        return [stored.number for stored in self.stored]

    def test_the_cursor_goes_through_all_segments(self) -> None:
        first, second = Segment("a", 1, 0), Segment("b", 4, 0)
        kept = self.write(first, keep=True)
        for segment in (first, first, second, second):
            self.write(segment)
        self.assertFalse(self.ledger.idle(MEDIUM))
        self.assertEqual((4, 5), (self.ledger.waiting(MEDIUM), self.ledger.count(MEDIUM)))
        self.assertEqual([2], self.read(1))
        self.assertEqual([3], self.read())
        self.assertEqual([4, 5], self.read())
        self.assertTrue(self.ledger.idle(MEDIUM))
        self.assertEqual([], self.read())
        self.assertEqual([], self.ledger.acked([kept]).remove)
        self.assertEqual(4, self.ledger.count(MEDIUM))

    def test_a_segment_goes_when_all_in_it_are_acked(self) -> None:
        first, second = Segment("a", 1, 0), Segment("b", 3, 0)
        several = [self.write(segment, keep=True) for segment in (first, first, second)]
        self.assertEqual([], self.ledger.acked([several[1]]).remove)
        cleaning = self.ledger.acked([several[0]])
        self.assertEqual([first], cleaning.remove)
        self.assertEqual([], self.ledger.acked([]).remove, "it is told once")
        self.ledger.removed(first)
        self.assertEqual(100, self.ledger.used)

    def test_the_last_segment_stays_unless_there_is_much_of_it_or_room_is_wanted(self) -> None:
        segment = Segment("a", 1, 0)
        self.assertEqual([], self.ledger.acked([self.write(segment, keep=True)]).remove)
        self.ledger.tight = True
        self.assertEqual([segment], self.ledger.clean().remove)
        self.ledger.removed(segment)
        self.assertTrue(self.ledger.idle(MEDIUM))
        self.write(Segment("b", 2, 0), keep=True)

    def test_numbers_that_reach_those_of_the_next_segment_do_not_count(self) -> None:
        """They are what is left of a write that failed, and was made again elsewhere."""
        first, second = Segment("a", 1, 0, size=500), Segment("b", 3, 0, size=100)
        self.assertEqual(3, self.ledger.recover(MEDIUM, [second, first], 3, []))
        self.assertEqual([1, 2], self.read())
        self.assertEqual([3], self.read())

    def test_acks_of_an_earlier_run_are_passed_over(self) -> None:
        segment = Segment("a", 11, 0, size=500)
        self.assertEqual(15, self.ledger.recover(MEDIUM, [segment], 15, [(1, 11), (13, 14)]))
        self.assertEqual(2, self.ledger.count(MEDIUM))
        self.assertEqual([12, 15], self.read())
        self.assertTrue(all(self.ledger.is_recovered(stored) for stored in self.stored))

    def test_numbers_go_on_where_acks_ended_although_no_segment_is_left(self) -> None:
        self.assertEqual(20, self.ledger.recover(MEDIUM, [], 0, [(15, 20)]))

    def test_the_first_note_of_a_run_says_all_that_a_next_one_must_know(self) -> None:
        self.ledger.recover(MEDIUM, [Segment("a", 11, 0, size=500)], 15, [(1, 11), (13, 13)])
        self.read()
        (note,) = self.ledger.acked(self.stored[:1]).notes
        self.assertEqual((True, [(1, 13)]), (note.anew, note.ranges))
        (note,) = self.ledger.acked(self.stored[1:]).notes
        self.assertEqual((False, [(14, 15)]), (note.anew, note.ranges))

    def test_what_is_left_of_an_old_segment_is_rewritten(self) -> None:
        old, *newer = (Segment(name, first, 0) for name, first in (("a", 1), ("b", 11), ("c", 21)))
        several = [self.write(old, keep=True) for _ in range(10)]
        several += [self.write(segment, keep=True) for segment in newer for _ in range(10)]
        cleaning = self.ledger.acked(several[:4] + several[5:10])
        (rewriting,) = cleaning.rewrite
        self.assertEqual((old, ((5, 5),)), (rewriting.segment, rewriting.keep))
        self.ledger.rewritten(old, 100)
        self.assertEqual(2100, self.ledger.used)
        self.assertEqual([old], self.ledger.acked([several[4]]).remove)
