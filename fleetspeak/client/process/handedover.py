"""Remembers what was written to a process lately, because it may die before it reads it.  No I/O."""

from __future__ import annotations

from collections import deque

PIPE_CAPACITY = 64 * 1024
"""Bytes that a pipe holds on Linux.  What is further back than that has been read."""


class HandedOver:
    """The messages at the end of a pipe's stream, by where each of them ends in it."""

    def __init__(self, capacity: int = PIPE_CAPACITY) -> None:
        self._capacity = capacity
        self._frames: deque[tuple[int, bytes]] = deque()

    def add(self, frame: bytes, end: int) -> None:
        """Note a frame that the pipe has taken all of; `end` counts the bytes of the whole stream until behind it."""
        self._frames.append((end, frame))
        read_for_sure = end - self._capacity
        while self._frames[0][0] <= read_for_sure:
            self._frames.popleft()

    def unread(self, consumed: int) -> list[bytes]:
        """The frames that were not read, or not to their end, by a process that has read so many bytes."""
        return [frame for end, frame in self._frames if end > consumed]
