"""The ack pipe: tells a child how many of its messages are accepted, without ever waiting for it.

An addition to the channel; only a child that asks for it is told anything.  It gets unsigned 64 bit little-endian
numbers, each of which replaces those before it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

CHILD_READS_ACKS = 5
"""The pipe's file descriptor in the child."""

VARIABLE = "FLEETSPEAK_COMMS_CHANNEL_ACKFD"
"""Tells the child of it; not set if there is none."""

SMALL_PIPE = 32 * 1024
"""Bytes in the pipe that messages come through, half of what Linux gives; see `outflow.PIPE_SHARE`."""

_NUMBER = struct.Struct("<Q")


def make_small(descriptor: int | None) -> None:
    """Have a pipe hold no more than `SMALL_PIPE`, where the system can do that."""
    if descriptor is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # the child was quick and has filled it: then it stays as it is
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, SMALL_PIPE)


@implementer(IWriteDescriptor)
class AckPipe:
    """Our end of it.  Until `open` there is none, and everything else does nothing."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._read_end: int | None = None
        self._write_end: int | None = None
        self._newest = 0
        self._waiting = False

    @property
    def offered(self) -> bool:
        """Is there one?"""
        return self._write_end is not None

    def open(self) -> None:
        """Make it, before the child is started.  Raises OSError."""
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The child's variables, made from ours: a client may itself be the child of one."""
        rest = {name: value for name, value in environment.items() if name != VARIABLE}
        return {**rest, VARIABLE: str(CHILD_READS_ACKS)} if self.offered else rest

    def descriptors(self) -> dict[int, int]:
        """For `Child.start`."""
        return {} if self._read_end is None else {CHILD_READS_ACKS: self._read_end}

    def started(self) -> None:
        """The child has its end, or never will."""
        if self._read_end is not None:
            os.close(self._read_end)
            self._read_end = None

    def tell(self, count: int) -> None:
        """Write this number; if the pipe is full, the newest one as soon as there is room."""
        self._newest = count
        if not self._waiting:
            self.doWrite()

    def close(self) -> None:
        """Close it.  The child sees the end."""
        self.started()
        if self._write_end is None:
            return
        if self._waiting:
            self._waiting = False
            self._reactor.removeWriter(self)
        descriptor, self._write_end = self._write_end, None
        # Later: the reactor may be about to tell of events by the numbers of descriptors, and a closed one's number
        # can be another pipe's by then.
        self._reactor.callLater(0, os.close, descriptor)

    # ---- what the reactor calls

    def doWrite(self) -> None:  # noqa: N802
        """There may be room."""
        if self._write_end is None:
            return
        try:
            # So few bytes are written as a whole or not at all.
            os.write(self._write_end, _NUMBER.pack(self._newest))
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                self._reactor.addWriter(self)
        except OSError:  # the child has closed its end: it does not want to know
            self.close()
        else:
            if self._waiting:
                self._waiting = False
                self._reactor.removeWriter(self)

    def fileno(self) -> int:
        """See `IFileDescriptor`."""
        return -1 if self._write_end is None else self._write_end

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """The reactor has found that the other end is closed."""
        self.close()

    def logPrefix(self) -> str:  # noqa: N802
        """See `ILoggingContext`."""
        return "ack pipe"
