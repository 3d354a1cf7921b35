"""Starts child processes: in a process group of their own, and with pipes whose filling can be read.

`reactor.spawnProcess` does no more than to make a `twisted.internet.process.Process`, which knows nothing of process
groups.  This is the one module that relies on that class's insides (Twisted 26.10); its test fails if they change.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet import process
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure


def bytes_waiting(descriptor: int) -> int:
    """How many bytes a pipe holds, asked at either end of it."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return int(count)


class CountingWriter(process.ProcessWriter):
    """The pipe to a child; knows how much of what was written the child has read."""

    written = 0
    """Bytes that the pipe took."""
    _left = 0

    @property
    def consumed(self) -> int:
        """Bytes that the child has read; final once the pipe is closed or the child is gone."""
        return self.written - (self._left if self.disconnected else bytes_waiting(self.fd))

    def writeSomeData(self, data: bytes) -> int | Exception:  # noqa: N802
        """Count what is written."""
        result: int | Exception = super().writeSomeData(data)  # type: ignore[no-untyped-call]
        if isinstance(result, int):
            self.written += result
        return result

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """Look a last time at what the child did not read, before the pipe is closed."""
        self._left = bytes_waiting(self.fd)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class ChildProcess(process.Process):
    """A child in the group of this process, so that it may use the terminal."""

    processWriterFactory = CountingWriter  # noqa: N815
    own_group = False

    def _trySpawnInsteadOfFork(  # noqa: N802
        self,
        path: str | None,
        uid: int | None,
        gid: int | None,
        executable: str,
        args: list[str],
        environment: Mapping[str, str],
        kwargs: Mapping[str, Any],
    ) -> bool:
        open_descriptors = []
        for descriptor in process._listOpenFDs():  # type: ignore[no-untyped-call]
            try:
                flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
            except OSError:
                continue  # it was the one for listing them
            open_descriptors.append((descriptor, bool(flags & fcntl.FD_CLOEXEC)))
        group: dict[str, Any] = {"setpgroup": 0} if self.own_group else {}
        self.pid = os.posix_spawnp(
            executable,
            args,
            environment,
            file_actions=process._getFileActions(
                open_descriptors, kwargs["fdmap"], doClose=os.POSIX_SPAWN_CLOSE, doDup2=os.POSIX_SPAWN_DUP2
            ),
            # Python ignores SIGPIPE, and a child would inherit that.
            setsigdef=[number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN],
            **group,
        )
        self.status = -1  # none yet
        return True


class GroupLeader(ChildProcess):
    """A child that leads a process group of its own, to which its own children belong as well."""

    own_group = True


def spawn(
    reactor: Any,
    protocol: ProcessProtocol,
    argv: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Mapping[int, int | str],
    *,
    own_group: bool = True,
) -> ChildProcess:
    """Start a program.

    @param argv: the program, looked up in PATH unless it has a slash, and its arguments.
    @param descriptors: what the child has at each number, as `childFDs` of `reactor.spawnProcess`: ``r`` a pipe we
        read, ``w`` one we write, or a file descriptor of ours.  The child gets no others.
    @raise OSError: it cannot be started, for instance because there is no such program.
    @raise ValueError: an argument holds what no argument can, a null character.
    """
    kind: Any = GroupLeader if own_group else ChildProcess
    child: ChildProcess = kind(
        reactor, argv[0], list(argv), dict(environment), None, protocol, None, None, dict(descriptors)
    )
    return child
