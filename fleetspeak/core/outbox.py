"""Decisions about messages on their way to the server: limits, order, and what is still unconfirmed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fleetspeak.core.stored import Stored
from fleetspeak.pb import common

MAX_PENDING_COUNT = 100
"""Messages of one priority that may be accepted and not yet acked."""

MAX_PENDING_BYTES = 20 * 1024 * 1024
"""Bytes of them; the message that reaches the limit may exceed it."""

ORDER = (common.Message.HIGH, common.Message.MEDIUM, common.Message.LOW)
"""The priorities, the most urgent one first."""


@dataclass(slots=True, eq=False)
class Entry:
    """One accepted message; every entry is its own, whatever it holds."""

    message: common.Message
    size: int
    """Serialized bytes."""
    on_ack: Callable[[], None] | None
    """Who wants to hear that the server has it."""
    priority: common.Message.Priority.ValueType
    stored: Stored | None = None
    """Where it is on the disk, if it is."""


class FlowFilter(NamedTuple):
    """Which priorities are withheld."""

    low: bool = False
    medium: bool = False
    high: bool = False


class _Queue:
    """The messages of one priority."""

    __slots__ = ("bytes", "count", "line")

    def __init__(self) -> None:
        self.line: deque[Entry] = deque()
        self.count = 0
        self.bytes = 0


class OutboxLedger:
    """Three queues, one for each priority.  A message is pending from `add` until `ack`.

    Whatever `take` gave out must come back exactly once, through `ack` or `nack`.
    """

    def __init__(self) -> None:
        self._queues = {priority: _Queue() for priority in ORDER}
        self._taken: set[Entry] = set()
        self._filter = FlowFilter()
        self._offered = list(self._queues.values())

    @property
    def ready(self) -> bool:
        """Will `take` give something?"""
        return any(queue.line for queue in self._offered)

    @property
    def flow_filter(self) -> FlowFilter:
        """What `take` withholds.  A change holds for the next one."""
        return self._filter

    @flow_filter.setter
    def flow_filter(self, value: FlowFilter) -> None:
        self._filter = value
        withheld = {
            common.Message.LOW: value.low,
            common.Message.MEDIUM: value.medium,
            common.Message.HIGH: value.high,
        }
        self._offered = [queue for priority, queue in self._queues.items() if not withheld[priority]]

    def accepts(self, priority: common.Message.Priority.ValueType) -> bool:
        """Is there room for one more message of this priority?  ValueError for an unknown one."""
        queue = self._queue(priority)
        return queue.count < MAX_PENDING_COUNT and queue.bytes < MAX_PENDING_BYTES

    def pending(self, priority: common.Message.Priority.ValueType) -> tuple[int, int]:
        """How many messages of this priority are pending, and their bytes.  ValueError for an unknown one."""
        queue = self._queue(priority)
        return queue.count, queue.bytes

    def add(
        self,
        message: common.Message,
        size: int,
        on_ack: Callable[[], None] | None = None,
        stored: Stored | None = None,
    ) -> Entry:
        """Accept a message of `size` serialized bytes.

        Raises ValueError if its priority is unknown or its queue is full: ask `accepts` before.
        """
        if not self.accepts(message.priority):
            raise ValueError("the queue of this priority is full")
        entry = Entry(message, size, on_ack, message.priority, stored)
        queue = self._queues[entry.priority]
        queue.count += 1
        queue.bytes += size
        queue.line.append(entry)
        return entry

    def take(self, max_count: int, max_bytes: int) -> list[Entry]:
        """Give out what is next, by priority and then age, as far as it fits; the first one always fits.

        Nothing is overtaken: where one does not fit, it ends.  Priorities that are withheld are passed over.
        """
        taken: list[Entry] = []
        room = max_bytes
        for queue in self._offered:
            while queue.line and len(taken) < max_count:
                if taken and queue.line[0].size > room:
                    max_count = 0
                    break
                entry = queue.line.popleft()
                room -= entry.size
                taken.append(entry)
        self._taken.update(taken)
        return taken

    def ack(self, entries: Iterable[Entry]) -> None:
        """The server has them: forget them.  ValueError if one is not out."""
        for entry in self._come_back(entries):
            queue = self._queues[entry.priority]
            queue.count -= 1
            queue.bytes -= entry.size

    def nack(self, entries: Iterable[Entry]) -> None:
        """The server may not have them: they stay pending, at the end of their line.  ValueError if one is not out."""
        for entry in self._come_back(entries):
            self._queues[entry.priority].line.append(entry)

    def _come_back(self, entries: Iterable[Entry]) -> list[Entry]:
        back = list(entries)
        if len(set(back)) < len(back) or not self._taken.issuperset(back):
            raise ValueError("acked or nacked what was not taken, or was already")
        self._taken.difference_update(back)
        return back

    def _queue(self, priority: common.Message.Priority.ValueType) -> _Queue:
        queue = self._queues.get(priority)
        if queue is None:
            raise ValueError(f"unknown priority: {priority}")
        return queue
