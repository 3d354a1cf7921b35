"""Remembers what was written to a process lately, because it may die before it has dealt with it.  No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

PIPE_CAPACITY = 64 * 1024
"""Bytes that a pipe holds on Linux.  What is further back than that has been read."""

READ_AHEAD = 8 * 1024
"""Bytes that a process may have read beyond the message it is at: the buffer of a Python file, as in the connector."""

MAX_REPEATS = 2
"""How often a message is repeated because the process was killed near it; it may be what kills the process."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message as the channel carries it."""

    data: bytes
    repeats: int = 0
    """How often it was given to a process that may have dealt with it before."""


class HandedOver:
    """The messages at the end of a pipe's stream, by where each of them ends in it."""

    def __init__(self, capacity: int = PIPE_CAPACITY, read_ahead: int = READ_AHEAD) -> None:
        self._capacity = capacity
        self._read_ahead = read_ahead
        self._frames: deque[tuple[int, Frame]] = deque()

    def add(self, frame: Frame, end: int) -> None:
        """Note a frame that the pipe has taken all of; `end` counts the bytes of the whole stream until behind it."""
        self._frames.append((end, frame))
        done_for_sure = end - self._capacity - self._read_ahead
        while len(self._frames) > 1 and self._frames[1][0] <= done_for_sure:
            self._frames.popleft()

    def unread(self, consumed: int) -> list[Frame]:
        """The frames that were not read, or not to their end, by a process that has read so many bytes."""
        return [frame for end, frame in self._frames if end > consumed]

    def unfinished(self, consumed: int) -> list[Frame]:
        """The same for a process that was killed: it may not have dealt with the last frames that it read, either."""
        read = [(end, frame) for end, frame in self._frames if end <= consumed]
        doubtful = [frame for end, frame in read if end > consumed - self._read_ahead] or [
            frame for _, frame in read[-1:]
        ]
        again = [replace(frame, repeats=frame.repeats + 1) for frame in doubtful if frame.repeats < MAX_REPEATS]
        return again + self.unread(consumed)
