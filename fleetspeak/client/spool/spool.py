"""Messages on the disk, for the outbox: a shell over the ledger that decides and the thread that writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.client.spool.folder import ReadBack, SetAside, SpoolFolder, Written
from fleetspeak.client.spool.thread import Disk
from fleetspeak.core.outbox import ORDER
from fleetspeak.core.spool import Cleaning, Reading, SpoolLedger
from fleetspeak.core.stored import Priority, Segment, Stored
from fleetspeak.pb import common

RETRY_DELAY = 2.0
"""Seconds until what could not be written, or read, is tried again."""

COMPLAINTS = 60.0
"""Seconds between two lines that say that acks cannot be noted."""

READ_ATTEMPTS = 5
"""After so many a segment that cannot be read is set aside."""


@dataclass(slots=True, eq=False)
class Pending:
    """A message that is to be accepted."""

    message: common.Message
    size: int
    on_ack: Callable[[], None] | None
    accepted: Deferred[None]
    turn: int = 0
    """Counts what goes to the disk; 0: there is no room yet."""
    body: bytes = b""
    taken_back: bool = False

    @property
    def priority(self) -> Priority:
        """Of the message."""
        return self.message.priority


class _GoOn:
    """Stands between what failed and what is tried again."""


class SpoolOwner(Protocol):
    """Who has the messages (`fleetspeak.client.outbox.ClientOutbox`)."""

    def written(self, pending: Pending, stored: Stored, idle: bool) -> None:
        """It is on the disk.  `idle`: nothing of its priority is there that is not in memory; see `Spool.keep`."""

    def written_all(self) -> None:
        """No more of these now."""

    def read_back(self, priority: Priority, messages: Sequence[tuple[Stored, common.Message]]) -> None:
        """What `Spool.read` was asked for; maybe nothing, and `Spool.has_more` says whether there is more."""


class Spool:
    """One client's spool.  All methods are called in the reactor's thread."""

    _log = Logger()

    def __init__(self, folder: SpoolFolder, limit: int, disk: Disk, clock: Any) -> None:
        """@param limit: bytes on the disk."""
        self._folder = folder
        self._ledger = SpoolLedger(limit)
        self._disk = disk
        self._clock = clock
        self._owner: SpoolOwner | None = None
        self._lines: dict[Priority, deque[Pending]] = {priority: deque() for priority in ORDER}
        """Those for which there is no room."""
        self._full_since: float | None = None
        self._failed: deque[Pending] = deque()
        """Those that could not be written, and what came after them."""
        self._retry: IDelayedCall | None = None
        self._poisoned: set[Priority] = set()
        """Belongs to the disk's thread: what comes is not written before what failed, which comes again."""
        self._turns = 0
        self._reading: set[Priority] = set()
        self._read_attempts = 0
        self._complained: float | None = None
        self._closed = False

    def open(self, owner: SpoolOwner) -> None:
        """Take over what an earlier run has left.  Blocks, for as long as it takes to read a few MiB.

        @raise OSError: the folder cannot be used.
        """
        found, damages = self._folder.open()
        for priority, lane in found.items():
            last = self._ledger.recover(priority, lane.segments, lane.last, lane.acks)
            self._folder.number_from(priority, last + 1)
        self._owner = owner
        self._disk.start(self._write)
        self._report(damages)
        if self.count:
            self._log.info(
                "{count} messages of an earlier run are in the spool {path}, in {bytes} bytes",
                count=self.count,
                path=self._folder.path,
                bytes=self._ledger.used,
            )

    @property
    def count(self) -> int:
        """Messages on the disk that the server has not confirmed."""
        return sum(self._ledger.count(priority) for priority in ORDER)

    @property
    def waiting(self) -> int:
        """Those of them that are on the disk only."""
        return sum(self._ledger.waiting(priority) for priority in ORDER)

    # ---- writing

    def could_accept(self, pending: Pending) -> bool:
        """Would there be room for it in an empty spool?"""
        return self._ledger.could_accept(pending.priority, pending.size)

    def submit(self, pending: Pending) -> None:
        """Write it, when there is room; `SpoolOwner.written` is called then."""
        line = self._lines[pending.priority]
        if not line and self._ledger.accepts(pending.priority, pending.size):
            self._begin(pending)
            return
        line.append(pending)
        self._ledger.tight = True
        self._clean(self._ledger.clean())
        if self._full_since is None and pending in line:
            self._full_since = self._clock.seconds()
            self._log.warn(
                "the spool {path} is full for messages of priority {priority}: {used} of {limit} bytes in all, "
                "{count} messages; whoever sends more waits until the server has taken some",
                path=self._folder.path,
                priority=common.Message.Priority.Name(pending.priority),
                used=self._ledger.used,
                limit=self._ledger.limit,
                count=self.count,
            )

    def take_back(self, pending: Pending) -> None:
        """Its sender does not want it any more."""
        pending.taken_back = True
        if not pending.turn:
            self._lines[pending.priority].remove(pending)
            self._let_in()

    def keep(self, stored: Stored) -> None:
        """The owner keeps it in memory, and will not have to read it."""
        self._ledger.keep(stored)

    def forget(self, stored: Stored) -> None:
        """A message that was written and not kept shall not be read, either."""
        self._clean(self._ledger.forget(stored))

    def acked(self, several: Iterable[Stored]) -> None:
        """The server has these, which were kept or read."""
        self._clean(self._ledger.acked(several))

    def _begin(self, pending: Pending) -> None:
        self._turns += 1
        pending.turn = self._turns
        self._ledger.begin(pending.priority, pending.size)
        pending.body = pending.message.SerializeToString()
        if self._retry is None:
            self._disk.append(pending)
        else:
            self._failed.append(pending)

    def _let_in(self) -> None:
        """Begin with those that waited for the room there is now."""
        for priority, line in self._lines.items():
            while line and self._ledger.accepts(priority, line[0].size):
                self._begin(line.popleft())
        if self._full_since is not None and not any(self._lines.values()):
            self._log.info(
                "the spool {path} has room again, after {seconds:.0f} s",
                path=self._folder.path,
                seconds=self._clock.seconds() - self._full_since,
            )
            self._full_since = None
        self._ledger.tight = any(self._lines.values())

    def _write(self, items: Sequence[Pending | _GoOn]) -> Callable[[], None]:
        """Blocks; called by the disk.  Returns what the reactor has to know."""
        outcomes: list[tuple[Pending, Written | Exception]] = []
        several: list[Pending] = []
        for item in items:
            if isinstance(item, Pending):
                several.append(item)
            else:
                outcomes += self._write_lanes(several)
                several = []
                self._poisoned.clear()
        outcomes += self._write_lanes(several)
        return lambda: self._written(outcomes)

    def _write_lanes(self, several: Sequence[Pending]) -> list[tuple[Pending, Written | Exception]]:
        outcomes: list[tuple[Pending, Written | Exception]] = []
        for priority in ORDER:
            mine = [pending for pending in several if pending.priority == priority]
            if not mine:
                continue
            done: Sequence[Written | Exception]
            if priority in self._poisoned:
                done = [OSError("what came before it could not be written")] * len(mine)
            else:
                try:
                    done = self._folder.append(priority, [pending.body for pending in mine])
                except Exception as error:
                    done = [error] * len(mine)
            if isinstance(done[-1], Exception):
                self._poisoned.add(priority)
            outcomes += zip(mine, done, strict=True)
        return outcomes

    def _written(self, outcomes: Sequence[tuple[Pending, Written | Exception]]) -> None:
        assert self._owner is not None
        failed: list[Pending] = []
        for pending, outcome in outcomes:
            if isinstance(outcome, Exception):
                failed.append(pending)
                if self._retry is None:
                    self._not_written(outcome)
                continue
            idle = self._ledger.idle(pending.priority)
            stored = self._ledger.written(pending.priority, outcome.number, pending.size, outcome.segment, outcome.end)
            pending.body = b""
            self._owner.written(pending, stored, idle)
        if failed:
            # Whatever was begun meanwhile comes after them.
            self._failed = deque(sorted([*self._failed, *failed], key=lambda pending: pending.turn))
        self._owner.written_all()

    def _not_written(self, error: Exception) -> None:
        self._log.error(
            "cannot write to the spool {path}: {error}. Services that send wait, and nothing that was accepted is "
            "lost. Make room on that disk, or see that the client may write there; trying again every {delay:.0f} s",
            path=self._folder.path,
            error=error,
            delay=RETRY_DELAY,
        )
        if not self._closed:
            self._retry = self._clock.callLater(RETRY_DELAY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        again, self._failed = self._failed, deque()
        self._disk.append(_GoOn())
        for pending in again:
            if pending.taken_back:
                self._ledger.drop(pending.priority, pending.size)
            else:
                self._disk.append(pending)
        self._let_in()

    # ---- reading

    def has_more(self, priority: Priority) -> bool:
        """Is something on the disk that was neither kept nor read?"""
        return not self._ledger.idle(priority)

    def is_recovered(self, stored: Stored) -> bool:
        """Is it of an earlier run?"""
        return self._ledger.is_recovered(stored)

    def read(self, priority: Priority, count: int) -> None:
        """Read up to so many messages, and give them to `SpoolOwner.read_back`; does nothing while that goes on."""
        if priority in self._reading or self._closed:
            return
        reading = self._ledger.next_reading(priority)
        if reading is None:
            return
        self._reading.add(priority)
        done = self._disk.call(lambda: self._folder.read(reading, count))
        done.addCallbacks(self._was_read, self._not_read, callbackArgs=(reading,), errbackArgs=(reading, count))
        done.addErrback(lambda failure: self._log.failure("reading the spool failed", failure))

    def _was_read(self, result: ReadBack, reading: Reading) -> None:
        assert self._owner is not None
        self._read_attempts = 0
        self._reading.discard(reading.priority)
        self._report(result.damages)
        messages = []
        for stored, body in self._ledger.read(reading, result.records, result.used):
            try:
                message = common.Message.FromString(body)
            except DecodeError:
                self._log.error(
                    "dropped a record of the spool that is no message: number {number}", number=stored.number
                )
                self.acked([stored])
            else:
                message.priority = reading.priority
                messages.append((stored, message))
        self._clean(self._ledger.clean())
        self._owner.read_back(reading.priority, messages)

    def _not_read(self, failure: Failure, reading: Reading, count: int) -> None:
        self._read_attempts += 1
        self._log.error(
            "cannot read {name} of the spool {path}: {error}",
            name=reading.segment.name,
            path=self._folder.path,
            error=failure.value,
        )
        if self._closed:
            return
        if self._read_attempts < READ_ATTEMPTS and not failure.check(FileNotFoundError):  # type: ignore[no-untyped-call]
            self._clock.callLater(RETRY_DELAY, self._read_again, reading.priority, count)
            return
        done = self._disk.call(lambda: self._folder.set_segment_aside(reading.segment))
        done.addCallback(lambda aside: self._was_read(ReadBack([], reading.end - reading.start, [aside]), reading))
        done.addErrback(lambda failure: self._log.failure("reading the spool failed", failure))

    def _read_again(self, priority: Priority, count: int) -> None:
        self._reading.discard(priority)
        self.read(priority, count)

    def _report(self, damages: Iterable[SetAside]) -> None:
        for damage in damages:
            self._log.error(
                "{size} bytes of the spool are damaged and hold no message, at {start} of {segment} in {path}; "
                "set aside as {to}. The disk may be failing",
                size=damage.size,
                start=damage.start,
                segment=damage.segment,
                path=self._folder.path,
                to="nothing: they could not be kept" if damage.to is None else damage.to.name,
            )

    # ---- cleaning

    def _clean(self, cleaning: Cleaning) -> None:
        """Write down what was acked, and delete what is not needed any more."""
        if self._closed:
            return
        for note in cleaning.notes:
            self._disk.tell(partial(self._folder.note, note), partial(self._not_noted, note.priority))
        for segment in cleaning.remove:
            removed = self._disk.call(partial(self._folder.remove, segment, segment.size))
            removed.addCallbacks(self._removed, self._not_cleaned, callbackArgs=(segment,), errbackArgs=(segment,))
        for rewriting in cleaning.rewrite:
            segment = rewriting.segment
            rewritten = self._disk.call(partial(self._folder.rewrite, rewriting))
            rewritten.addCallbacks(self._rewritten, self._not_cleaned, callbackArgs=(segment,), errbackArgs=(segment,))

    def _not_noted(self, priority: Priority, failure: Failure) -> None:
        self._ledger.not_noted(priority)
        now = self._clock.seconds()
        if self._complained is None or now - self._complained >= COMPLAINTS:
            self._complained = now
            self._log.warn("cannot note what the server has: {error}; it may get it twice", error=failure.value)

    def _removed(self, removed: bool, segment: Segment) -> None:
        if removed:
            self._ledger.removed(segment)
            self._let_in()
        else:
            segment.busy = False

    def _rewritten(self, size: int, segment: Segment) -> None:
        self._ledger.rewritten(segment, size)
        self._let_in()

    def _not_cleaned(self, failure: Failure, segment: Segment) -> None:
        segment.busy = False
        self._log.warn("cannot clean up the spool: {error}", error=failure.value)

    # ---- the end

    async def close(self, error: Exception) -> None:
        """Finish what is being written.  Whoever waits for room, or for a disk that fails, gets this error."""
        self._closed = True
        if self._owner is None:
            return
        for line in self._lines.values():
            while line:
                line.popleft().accepted.errback(error)
        if self._retry is not None:
            self._retry.cancel()
        await self._disk.stop()
        self._folder.close()
        while self._failed:
            pending = self._failed.popleft()
            if not pending.taken_back:
                pending.accepted.errback(error)
        if self.count:
            self._log.info("{count} messages stay in the spool {path}", count=self.count, path=self._folder.path)
