"""Decisions about messages on the client's disk: room, order, what is read next, and what may be deleted.

The disk has a lane for each priority: segments (files) of numbered records, only ever written at the end of the last
one.  A cursor goes through each lane.  What it has passed is in memory, at most a queue full
(`fleetspeak.core.outbox`), or acked; what is behind it is only on the disk.  So memory does not grow with what waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fleetspeak.core.intervals import Intervals
from fleetspeak.core.outbox import ORDER
from fleetspeak.core.stored import Priority, Segment, Stored
from fleetspeak.pb import common
from fleetspeak.wire.spoolrecords import HEADER, Record

SHARES: dict[Priority, float] = {common.Message.HIGH: 1.0, common.Message.MEDIUM: 0.75, common.Message.LOW: 0.5}
"""Of the limit, what messages of a priority and those below it may take together: a quarter of it is never taken from
HIGH ones, nor another quarter by LOW ones from MEDIUM ones."""

MOST_SEGMENTS = 64
"""A lane that has the whole limit has about so many; each is deleted as a whole."""

LARGEST_SEGMENT = 4 * 1024 * 1024
SMALLEST_SEGMENT = 64 * 1024

RETIRE_PART = 4
"""The segment that is being written is given up when all in it is acked and it has a fourth of its size."""

REWRITE_PART = 4
"""A segment of which less than a fourth is still needed is rewritten, ..."""

REWRITE_DISTANCE = 2
"""... once the cursor is so many segments further on; one is enough when somebody waits for room."""

MAX_ACK_ENTRIES = 4096
"""Entries of a file of acks, after which it is written anew."""


def segment_size(limit: int) -> int:
    """Bytes after which a new segment is begun."""
    return max(SMALLEST_SEGMENT, min(LARGEST_SEGMENT, limit // MOST_SEGMENTS))


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be read next of a lane."""

    priority: Priority
    segment: Segment
    start: int
    end: int
    """Nothing further on is confirmed."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A segment to be written anew, with nothing but these records."""

    segment: Segment
    keep: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class AckNote:
    """What a file of acks has to say."""

    priority: Priority
    ranges: list[tuple[int, int]]
    anew: bool
    """Instead of all it said so far."""


@dataclass(slots=True)
class Cleaning:
    """What is to be done on the disk after acks."""

    notes: list[AckNote] = field(default_factory=list)
    remove: list[Segment] = field(default_factory=list)
    rewrite: list[Rewriting] = field(default_factory=list)


class _Lane:
    """The messages of one priority."""

    __slots__ = ("ack_entries", "acked", "at", "bytes", "flying", "passed", "recovered", "segments", "written")

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.acked = Intervals()
        self.ack_entries = 0
        self.at: tuple[Segment, int] | None = None
        """The cursor: everything before it was read.  None: at the beginning of the first segment there will be."""
        self.passed = 0
        """The last number before the cursor."""
        self.written = 0
        """The last number on the disk."""
        self.recovered = 0
        """The last number of an earlier run."""
        self.bytes = 0
        self.flying = 0
        """Bytes on their way to the disk."""

    @property
    def idle(self) -> bool:
        """Is nothing behind the cursor?"""
        if not self.segments:
            return True
        last = self.segments[-1]
        return self.at is not None and self.at[0] is last and self.at[1] >= last.size

    def index(self, segment: Segment) -> int:
        return next(index for index, each in enumerate(self.segments) if each is segment)

    def upper(self, segment: Segment) -> int:
        """The largest number that belongs there; what is above it is left from a write that failed."""
        after = self.index(segment) + 1
        return self.segments[after].first - 1 if after < len(self.segments) else self.written

    def pass_to(self, segment: Segment, offset: int, number: int) -> None:
        """Move the cursor.  Numbers that did not come by the way are not there."""
        self.at = (segment, offset)
        self.acked.add(self.passed + 1, number - 1)
        self.passed = max(self.passed, number)


class SpoolLedger:
    """The account of what is on the disk.  Numbers count the messages of a priority and are never used twice."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes on the disk."""
        self.limit = limit
        self._segment_size = segment_size(limit)
        self._lanes = {priority: _Lane() for priority in ORDER}
        self.tight = False
        """Somebody waits for room: make some also where it is not much."""

    # ---- what was found

    def recover(
        self, priority: Priority, segments: Iterable[Segment], last: int, acks: Iterable[tuple[int, int]]
    ) -> int:
        """Take over what an earlier run has left.

        @param last: the last number in the last segment; 0 if there is none.
        @return: the last number that was ever used, as far as that is known.
        """
        lane = self._lanes[priority]
        lane.segments = sorted(segments, key=lambda segment: segment.first)
        lane.bytes = sum(segment.size for segment in lane.segments)
        lane.acked = Intervals(acks)
        lane.ack_entries = MAX_ACK_ENTRIES  # whatever the file holds, the next note replaces it
        lane.written = max([last, lane.acked.last, *(segment.first - 1 for segment in lane.segments)])
        lane.recovered = lane.written
        lane.at = (lane.segments[0], 0) if lane.segments else None
        lane.passed = lane.segments[0].first - 1 if lane.segments else lane.written
        lane.acked.add(1, lane.passed)
        return lane.written

    # ---- room

    @property
    def used(self) -> int:
        """Bytes on the disk, or on their way there."""
        return sum(lane.bytes + lane.flying for lane in self._lanes.values())

    def accepts(self, priority: Priority, size: int) -> bool:
        """Is there room for one more message of so many bytes?"""
        together = size + HEADER
        for lower in reversed(ORDER):
            lane = self._lanes[lower]
            together += lane.bytes + lane.flying
            if ORDER.index(lower) <= ORDER.index(priority) and together > SHARES[lower] * self.limit:
                return False
        return True

    def could_accept(self, priority: Priority, size: int) -> bool:
        """Would there be room if the disk were empty?"""
        return size + HEADER <= SHARES[priority] * self.limit

    def waiting(self, priority: Priority) -> int:
        """Messages behind the cursor (some fewer, if records are damaged)."""
        lane = self._lanes[priority]
        return lane.written - lane.passed - lane.acked.count(lane.passed + 1, lane.written)

    def count(self, priority: Priority) -> int:
        """Messages on the disk that are not acked."""
        return self.waiting(priority) + sum(segment.live for segment in self._lanes[priority].segments)

    # ---- writing

    def begin(self, priority: Priority, size: int) -> None:
        """A message goes to the disk."""
        self._lanes[priority].flying += size + HEADER

    def drop(self, priority: Priority, size: int) -> None:
        """It does not: it was taken back before it could be written."""
        self._lanes[priority].flying -= size + HEADER

    def written(self, priority: Priority, number: int, size: int, segment: Segment, end: int) -> Stored:
        """It is on the disk, in this segment up to `end`.  Of each priority in the order of the numbers."""
        lane = self._lanes[priority]
        lane.flying -= size + HEADER
        if not lane.segments or lane.segments[-1] is not segment:
            if lane.idle:
                lane.at = (segment, 0)
            lane.segments.append(segment)
        lane.bytes += end - segment.size
        segment.size = end
        lane.written = number
        return Stored(priority, number, size, segment)

    def idle(self, priority: Priority) -> bool:
        """Is everything that is on the disk in memory, too, or acked?"""
        return self._lanes[priority].idle

    def keep(self, stored: Stored) -> None:
        """Move the cursor over the message that was written last, because it is kept in memory.

        Only if the lane was `idle` before it was written.
        """
        lane = self._lanes[stored.priority]
        lane.pass_to(stored.segment, stored.segment.size, stored.number)
        stored.segment.live += 1
        stored.segment.live_bytes += stored.size + HEADER

    # ---- reading

    def is_recovered(self, stored: Stored) -> bool:
        """Was it written by an earlier run?"""
        return stored.number <= self._lanes[stored.priority].recovered

    def next_reading(self, priority: Priority) -> Reading | None:
        """What to read next; None if everything was."""
        lane = self._lanes[priority]
        if lane.idle:
            return None
        segment, offset = lane.at or (lane.segments[0], 0)
        while offset >= segment.size:
            upper = lane.upper(segment)
            lane.acked.add(lane.passed + 1, upper)
            lane.passed = max(lane.passed, upper)
            if segment is lane.segments[-1]:  # nothing was ever confirmed of it
                return None
            segment, offset = lane.segments[lane.index(segment) + 1], 0
            lane.at = (segment, offset)
        return Reading(priority, segment, offset, segment.size)

    def read(self, reading: Reading, records: Sequence[Record], used: int) -> list[tuple[Stored, bytes]]:
        """This is what it held, within the `used` bytes from its start.  Returns what is to be sent, in order."""
        lane = self._lanes[reading.priority]
        upper = lane.upper(reading.segment)
        found = []
        for record in records:
            if not lane.passed < record.number <= upper:
                continue
            is_acked = record.number in lane.acked
            lane.pass_to(reading.segment, reading.start + record.end, record.number)
            if not is_acked:
                stored = Stored(reading.priority, record.number, len(record.body), reading.segment)
                reading.segment.live += 1
                reading.segment.live_bytes += stored.size + HEADER
                found.append((stored, record.body))
        lane.at = (reading.segment, reading.start + used)
        return found

    # ---- acks

    def acked(self, several: Iterable[Stored]) -> Cleaning:
        """The server has these; they were kept in memory (`keep`, `read`)."""
        numbers: dict[Priority, Intervals] = {}
        for stored in several:
            numbers.setdefault(stored.priority, Intervals()).add(stored.number, stored.number)
            stored.segment.live -= 1
            stored.segment.live_bytes -= stored.size + HEADER
        return self._note(numbers)

    def forget(self, stored: Stored) -> Cleaning:
        """Somebody has taken back a message that is on the disk, behind the cursor."""
        return self._note({stored.priority: Intervals([(stored.number, stored.number)])})

    def clean(self) -> Cleaning:
        """What else may go, as after a start or when the cursor has moved."""
        cleaning = Cleaning()
        for lane in self._lanes.values():
            self._clean(lane, cleaning)
        return cleaning

    def not_noted(self, priority: Priority) -> None:
        """The note could not be written: the next one says it all."""
        self._lanes[priority].ack_entries = MAX_ACK_ENTRIES

    def removed(self, segment: Segment) -> None:
        """Its file is gone."""
        lane = self._lane_of(segment)
        lane.bytes -= segment.size
        at = lane.index(segment)
        del lane.segments[at]
        if lane.at is not None and lane.at[0] is segment:
            if at < len(lane.segments):
                lane.at = (lane.segments[at], 0)
            else:
                lane.at = (lane.segments[-1], lane.segments[-1].size) if lane.segments else None

    def rewritten(self, segment: Segment, size: int) -> None:
        """Its file has so many bytes now."""
        segment.busy = False
        self._lane_of(segment).bytes += size - segment.size
        segment.size = size

    def _lane_of(self, segment: Segment) -> _Lane:
        return next(lane for lane in self._lanes.values() if any(each is segment for each in lane.segments))

    def _note(self, numbers: dict[Priority, Intervals]) -> Cleaning:
        cleaning = Cleaning()
        for priority, intervals in numbers.items():
            lane = self._lanes[priority]
            for first, last in intervals:
                lane.acked.add(first, last)
            lane.ack_entries += len(intervals)
            anew = lane.ack_entries > MAX_ACK_ENTRIES
            ranges = self._all_acks(lane) if anew else list(intervals)
            if anew:
                lane.ack_entries = len(ranges)
            cleaning.notes.append(AckNote(priority, ranges, anew))
            self._clean(lane, cleaning)
        return cleaning

    @staticmethod
    def _all_acks(lane: _Lane) -> list[tuple[int, int]]:
        """What a new run must know: the acks in the segments there are, and the last number of all."""
        first = lane.segments[0].first if lane.segments else lane.written + 1
        return [each for each in lane.acked if each[1] >= first] or list(lane.acked)[-1:]

    def _clean(self, lane: _Lane, cleaning: Cleaning) -> None:
        if lane.at is None:
            return
        cursor = lane.index(lane.at[0])
        distance = 1 if self.tight else REWRITE_DISTANCE
        for index, segment in enumerate(lane.segments[: cursor + 1]):
            if segment.busy:
                continue
            if not segment.live and (index < cursor or self._may_retire(lane, segment)):
                segment.busy = True
                cleaning.remove.append(segment)
            elif segment.live and index <= cursor - distance and segment.live_bytes * REWRITE_PART < segment.size:
                segment.busy = True
                keep = tuple(lane.acked.gaps(segment.first, lane.upper(segment)))
                cleaning.rewrite.append(Rewriting(segment, keep))

    def _may_retire(self, lane: _Lane, segment: Segment) -> bool:
        assert lane.at is not None
        at_end = lane.at[1] >= segment.size
        if segment is not lane.segments[-1]:
            return at_end
        worth_it = self.tight or segment.size * RETIRE_PART >= self._segment_size
        return at_end and not lane.flying and bool(segment.size) and worth_it
