"""The spool on the disk: a folder of segments and files of acks.  Blocks; used by one thread at a time."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fleetspeak.client.spool.files import Files
from fleetspeak.core.outbox import ORDER
from fleetspeak.core.spool import AckNote, Reading, Rewriting
from fleetspeak.core.stored import Priority, Segment
from fleetspeak.pb import common
from fleetspeak.wire import spoolrecords

READ_PIECE = 256 * 1024
"""Bytes that are read at a time, unless one record is larger."""

LARGEST_PIECE = 64 * 1024 * 1024
"""No segment of ours is larger; of one that is, so much is taken into memory."""

LARGEST_ACKS = 4 * 1024 * 1024
"""Bytes of a file of acks that are read; ours have less than 100 KiB."""

MAX_SET_ASIDE = 32
"""Files with damaged bytes that are kept."""

_NAMES = {priority: common.Message.Priority.Name(priority).lower() for priority in ORDER}
_SEGMENT = re.compile(r"(high|medium|low)-(\d{20})-([0-9a-f]{8})\.segment")


@dataclass(slots=True)
class Found:
    """What an earlier run has left in one lane."""

    segments: list[Segment] = field(default_factory=list)
    last: int = 0
    """The last number in the last segment."""
    acks: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Written:
    """A message is on the disk."""

    number: int
    segment: Segment
    end: int


@dataclass(frozen=True, slots=True)
class SetAside:
    """Bytes of the spool that hold no message."""

    segment: str
    start: int
    size: int
    to: Path | None
    """Where they are now; None if they could not be kept."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a piece of a segment holds."""

    records: list[spoolrecords.Record]
    used: int
    damages: list[SetAside]


@dataclass(slots=True)
class _Open:
    """The segment that a lane is written to."""

    segment: Segment
    descriptor: int
    size: int


class SpoolFolder:
    """Reads and writes the spool in the folder `path`."""

    def __init__(
        self, path: Path, segment_size: int, files: Files | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._segment_size = segment_size
        self._files = files or Files()
        self._now = now
        self._open: dict[Priority, _Open] = {}
        self._acks: dict[Priority, int] = {}
        self._reusable: dict[Priority, Segment] = {}
        self._next = dict.fromkeys(ORDER, 1)
        """The number of the next message.  Those of messages that could not be written are used again: the next
        segment begins with them, and what the one before has of them does not count."""

    # ---- the start

    def open(self) -> tuple[dict[Priority, Found], list[SetAside]]:
        """Make the folder, or see what is in it.  What a write that was interrupted has left is cut off.

        @return: what there is, and the damage at the ends of the last segments.  Other damage is found when it is read.
        @raise OSError: the folder cannot be used.
        """
        if not self.path.is_dir():
            self.path.mkdir(mode=0o700)
            self._files.sync_folder(self.path.parent)
        if self.path.stat().st_uid != os.geteuid():
            # Whoever owns it can put messages there, which would go out as those of any service.
            raise PermissionError(errno.EPERM, "it belongs to another user; give it to the client's", str(self.path))
        self.path.chmod(0o700)
        found = {priority: Found() for priority in ORDER}
        for entry in list(os.scandir(self.path)):
            match = _SEGMENT.fullmatch(entry.name)
            if match is not None and entry.is_file(follow_symlinks=False):
                priority = _priority(match[1])
                segment = Segment(
                    entry.name, int(match[2]), int(match[3], 16), entry.stat(follow_symlinks=False).st_size
                )
                found[priority].segments.append(segment)
            elif entry.name.endswith(".new"):
                self._files.remove(self.path / entry.name)
        damages: list[SetAside] = []
        for priority, lane in found.items():
            lane.segments.sort(key=lambda segment: segment.first)
            with suppress(FileNotFoundError):
                acks = self._files.read(self._acks_path(priority), 0, LARGEST_ACKS)
                lane.acks = spoolrecords.decode_acks(acks)
            if lane.segments:
                lane.last = self._check_end(priority, lane.segments[-1], damages)
        return found, damages

    def _check_end(self, priority: Priority, segment: Segment, damages: list[SetAside]) -> int:
        """Cut the segment after its last record.  Returns the number of that."""
        last = start = good = 0
        while start < segment.size:
            scan, data = self._scan(segment, start, segment.size, 1 << 62)
            if not data:
                break
            if scan.records:
                last, good = scan.records[-1].number, start + scan.records[-1].end
            if start + scan.used >= segment.size:
                at_end = scan.damages[-1:] if scan.damages and scan.damages[-1].end == scan.used else []
                damages += self._set_aside(segment, start, data, [each for each in at_end if not each.torn])
            start += max(scan.used, 1)
        if good < segment.size:
            try:
                self._files.truncate(self.path / segment.name, good)
            except OSError:
                return last  # then nothing is written behind it
            segment.size = good
        self._reusable[priority] = segment
        return last

    # ---- writing

    def number_from(self, priority: Priority, first: int) -> None:
        """The number of the next message; none that is in use may follow it."""
        self._next[priority] = first

    def append(self, priority: Priority, bodies: Sequence[bytes]) -> list[Written | OSError]:
        """Write these behind the others.  They are on the disk when this returns, but for those with an error.

        Of those with an error, which are the last ones, nothing is found again as long as that can be helped.
        """
        outcomes: list[Written | OSError] = []
        try:
            while len(outcomes) < len(bodies):
                outcomes += self._append_some(priority, bodies[len(outcomes) :])
        except OSError as error:
            self._give_up(priority)
            outcomes += [error] * (len(bodies) - len(outcomes))
        return outcomes

    def _append_some(self, priority: Priority, bodies: Sequence[bytes]) -> list[Written]:
        """Write as many as go into one segment."""
        first = self._next[priority]
        to = self._to_append(priority, first)
        data: list[bytes] = []
        written: list[Written] = []
        size = to.size
        for number, body in enumerate(bodies, first):
            data.append(spoolrecords.encode(number, body, to.segment.seed))
            size += len(data[-1])
            written.append(Written(number, to.segment, size))
            if size >= self._segment_size:
                break
        self._files.write(to.descriptor, b"".join(data))
        self._files.sync(to.descriptor)
        to.size = size
        self._next[priority] = first + len(written)
        return written

    def _to_append(self, priority: Priority, number: int) -> _Open:
        """Where to write: the last segment, or a new one whose first number is this."""
        to = self._open.get(priority)
        if to is not None and (to.size >= self._segment_size or self._files.is_gone(to.descriptor)):
            self._close(priority)
            to = None
        if to is None:
            to = self._reopened(priority) or self._begun(priority, number)
            self._open[priority] = to
        return to

    def _reopened(self, priority: Priority) -> _Open | None:
        """The last segment of an earlier run, if it has room."""
        segment = self._reusable.pop(priority, None)
        if segment is None or segment.size >= self._segment_size:
            return None
        try:
            return _Open(segment, self._files.open_to_append(self.path / segment.name), segment.size)
        except OSError:
            return None

    def _begun(self, priority: Priority, number: int) -> _Open:
        seed = secrets.randbits(32)
        name = f"{_NAMES[priority]}-{number:020}-{seed:08x}.segment"
        try:
            descriptor = self._files.create(self.path / name)
        except FileNotFoundError:
            self.path.mkdir(mode=0o700)
            descriptor = self._files.create(self.path / name)
        return _Open(Segment(name, number, seed), descriptor, 0)

    def _give_up(self, priority: Priority) -> None:
        """Write no more to this segment: what the disk has of it behind its confirmed size is anybody's guess."""
        to = self._open.get(priority)
        if to is None:
            return
        self._close(priority)
        with suppress(OSError):
            if to.size:
                self._files.truncate(self.path / to.segment.name, to.size)
            else:
                self._files.remove(self.path / to.segment.name)

    def _close(self, priority: Priority) -> None:
        to = self._open.pop(priority)
        with suppress(OSError):
            os.close(to.descriptor)

    # ---- reading

    def read(self, reading: Reading, count: int) -> ReadBack:
        """The next messages, up to so many, or a piece of the segment full.  Damaged bytes are set aside.

        @raise OSError: the segment cannot be read.
        """
        segment = reading.segment
        scan, data = self._scan(segment, reading.start, reading.end, count)
        damages = self._set_aside(segment, reading.start, data, scan.damages)
        used = scan.used
        if not data:  # the file was cut under our hands
            used = reading.end - reading.start
            damages.append(SetAside(segment.name, reading.start, used, None))
        return ReadBack(scan.records, used, damages)

    def _scan(self, segment: Segment, start: int, end: int, count: int) -> tuple[spoolrecords.Scan, bytes]:
        """Look at a piece that is large enough to say something."""
        size = READ_PIECE
        while True:
            size = min(size, end - start, LARGEST_PIECE)
            data = self._files.read(self.path / segment.name, start, size)
            whole = len(data) < size or size in (end - start, LARGEST_PIECE)
            scan = spoolrecords.scan(data, segment.seed, whole=whole, limit=count)
            if scan.used or whole:
                return scan, data
            size = scan.needed

    def _set_aside(
        self, segment: Segment, start: int, data: bytes, damages: Iterable[spoolrecords.Damage]
    ) -> list[SetAside]:
        """Keep damaged bytes in files of their own, unless that was done.  `start`: where `data` is in the segment."""
        kept = []
        for damage in damages:
            stem = f"{segment.name.removesuffix('.segment')}-{start + damage.start}.corrupt-"
            before = [name for name in os.listdir(self.path) if ".corrupt-" in name]
            if any(name.startswith(stem) for name in before):
                continue
            to: Path | None = self.path / f"{stem}{self._stamp()}" if len(before) < MAX_SET_ASIDE else None
            try:
                if to is not None:
                    self._files.replace(to, data[damage.start : damage.end])
            except OSError:
                to = None
            kept.append(SetAside(segment.name, start + damage.start, damage.end - damage.start, to))
        return kept

    def set_segment_aside(self, segment: Segment) -> SetAside:
        """Keep a segment that cannot be read under a name that is not looked for."""
        path = self.path / f"{segment.name.removesuffix('.segment')}.corrupt-{self._stamp()}"
        for priority, to in list(self._open.items()):
            if to.segment is segment:
                self._close(priority)
        try:
            (self.path / segment.name).rename(path)
        except OSError:
            return SetAside(segment.name, 0, segment.size, None)
        return SetAside(segment.name, 0, segment.size, path)

    # ---- cleaning

    def note(self, note: AckNote) -> None:
        """Write down acks, without waiting for the disk: if they are lost, messages are sent again.  OSError."""
        data = b"".join(spoolrecords.encode_ack(first, last) for first, last in note.ranges)
        path = self._acks_path(note.priority)
        descriptor = self._acks.get(note.priority)
        if descriptor is not None and (note.anew or self._files.is_gone(descriptor)):
            os.close(self._acks.pop(note.priority))
            descriptor = None
        if note.anew:
            self._files.replace(path, data)
            return
        if descriptor is None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            self._acks[note.priority] = descriptor
        self._files.write(descriptor, data)

    def remove(self, segment: Segment, size: int) -> bool:
        """Delete a segment, unless something was written to it since it had so many bytes.  Raises OSError.

        @return: is it deleted?
        """
        for priority, to in list(self._open.items()):
            if to.segment is segment:
                if to.size != size:
                    return False
                self._close(priority)
        for priority, reusable in list(self._reusable.items()):
            if reusable is segment:
                del self._reusable[priority]
        self._files.remove(self.path / segment.name)
        return True

    def rewrite(self, rewriting: Rewriting) -> int:
        """Write a segment anew with nothing but the records to keep.  Raises OSError.

        @return: the bytes it has now.
        """
        segment = rewriting.segment
        data = self._files.read(self.path / segment.name, 0, min(segment.size, LARGEST_PIECE))
        kept = []
        for record in spoolrecords.scan(data, segment.seed, whole=True).records:
            start = record.end - spoolrecords.HEADER - len(record.body)
            if any(first <= record.number <= last for first, last in rewriting.keep):
                kept.append(data[start : record.end])
        anew = b"".join(kept)
        self._files.replace(self.path / segment.name, anew)
        return len(anew)

    def _stamp(self) -> str:
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))

    def close(self) -> None:
        """Write no more."""
        for priority in list(self._open):
            self._close(priority)
        while self._acks:
            os.close(self._acks.popitem()[1])

    def _acks_path(self, priority: Priority) -> Path:
        return self.path / f"{_NAMES[priority]}.acks"


def _priority(name: str) -> Priority:
    return next(priority for priority, each in _NAMES.items() if each == name)
