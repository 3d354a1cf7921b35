"""Decisions about messages on their way to the server: limits, order, and what is still unconfirmed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleetspeak.pb import common

MAX_PENDING_COUNT = 100
"""A queue takes no more messages while it has so many that are not confirmed."""

MAX_PENDING_BYTES = 20 * 1024 * 1024
"""Nor while it has so many bytes of them; the last one taken may go beyond."""

BY_PRIORITY = (common.Message.HIGH, common.Message.MEDIUM, common.Message.LOW)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A message that was accepted: it is kept until the server has confirmed it."""

    message: common.Message
    size: int
    """Bytes of the serialized message."""
    on_ack: Callable[[], None] | None
    priority: common.Message.Priority.ValueType


class _Queue:
    """The messages of one priority."""

    __slots__ = ("bytes", "line", "pending")

    def __init__(self) -> None:
        self.pending: set[Entry] = set()
        self.bytes = 0
        self.line: deque[Entry] = deque()
        """Those of them that wait to be taken."""


class OutboxLedger:
    """Three queues, one for each priority.  A message is in line, or taken; pending until acked."""

    def __init__(self) -> None:
        self._queues = {priority: _Queue() for priority in BY_PRIORITY}

    @property
    def ready(self) -> bool:
        """Will `take` give something?"""
        return any(queue.line for queue in self._queues.values())

    def accepts(self, priority: common.Message.Priority.ValueType) -> bool:
        """Is there room for one more message?"""
        queue = self._queues[priority]
        return len(queue.pending) < MAX_PENDING_COUNT and queue.bytes < MAX_PENDING_BYTES

    def add(self, message: common.Message, size: int, on_ack: Callable[[], None] | None = None) -> Entry:
        """Accept a message; its priority says where.  Raises ValueError if there is no room."""
        if not self.accepts(message.priority):
            raise ValueError("the queue of this priority is full")
        entry = Entry(message, size, on_ack, message.priority)
        queue = self._queues[message.priority]
        queue.pending.add(entry)
        queue.bytes += size
        queue.line.append(entry)
        return entry

    def take(self, max_count: int, max_bytes: int) -> list[Entry]:
        """As many as fit, highest priority first, oldest first; the first one fits whatever its size."""
        taken: list[Entry] = []
        room = max_bytes
        for priority in BY_PRIORITY:
            line = self._queues[priority].line
            while line and len(taken) < max_count and (line[0].size <= room or not taken):
                entry = line.popleft()
                room -= entry.size
                taken.append(entry)
            if line:
                break
        return taken

    def ack(self, entries: Sequence[Entry]) -> None:
        """The server has them; they make room.  Repeats are passed over."""
        for entry in entries:
            queue = self._queues[entry.priority]
            if entry in queue.pending:
                queue.pending.remove(entry)
                queue.bytes -= entry.size

    def nack(self, entries: Sequence[Entry]) -> None:
        """The server may not have them; they go to the end of their line."""
        for entry in entries:
            queue = self._queues[entry.priority]
            if entry in queue.pending:
                queue.line.append(entry)

    def pending(self, priority: common.Message.Priority.ValueType) -> tuple[int, int]:
        """Messages accepted and not acked: how many, and their bytes."""
        queue = self._queues[priority]
        return len(queue.pending), queue.bytes
