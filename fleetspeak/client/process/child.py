"""A child process as its owner sees it: pipes, exit, and the way to end it together with its own children."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet import error
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IPullProducer
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.client.process.living import LIVING
from fleetspeak.client.process.spawn import ChildProcess, CountingWriter, bytes_waiting, spawn
from fleetspeak.errors import FleetspeakError

GRACE = 1.0
"""Seconds a child gets after each step of being ended: end of file, interrupt, kill."""


class ChildGone(FleetspeakError):
    """The child ended, or closed its pipe, before it took all of it."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a child ended."""

    code: int | None
    """Its exit status, or None if a signal ended it."""
    signal: int | None

    @property
    def ok(self) -> bool:
        """Did it succeed?"""
        return self.code == 0

    def __str__(self) -> str:
        """As the Go programs say it: ``exit status 1``, ``signal: killed``."""
        if self.signal is not None:
            return f"signal: {(signal.strsignal(self.signal) or str(self.signal)).lower()}"
        return f"exit status {self.code}"


class ChildOwner(Protocol):
    """Who is told of what a child does."""

    def child_wrote(self, descriptor: int, data: bytes) -> None:
        """Bytes from one of its pipes; until `Child.pause`, more will come."""

    def child_closed(self, descriptor: int) -> None:
        """The end of one of its pipes, in either direction."""

    def child_exited(self, status: ExitStatus) -> None:
        """The child is gone; what it wrote before may still come."""

    def child_ended(self) -> None:
        """The child is gone and all that it wrote has been told: nothing more will come."""


class Child(ProcessProtocol):
    """One child process; at most one of its pipes is written to.

    When the child exits, whatever is left of its process group is killed, and what is in its pipes at that moment
    is the last that is read of them: a grandchild that has left the group and holds them open hides nothing.
    """

    _log = Logger()

    def __init__(self, owner: ChildOwner, grace: float = GRACE) -> None:
        self._owner = owner
        self._grace = grace
        self._clock: Any = None  # the reactor
        self._process: Any = None  # a ChildProcess, of a module without types
        self._own_group = True
        self._left: dict[int, int] = {}
        self._waiting_for_exit: list[Deferred[None]] = []
        self._signalled = False
        self.pid = 0
        self.status: ExitStatus | None = None
        """None while it runs."""
        self.input: InputPipe | None = None
        """The pipe to it, if there is one."""

    def start(
        self,
        reactor: Any,
        argv: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Mapping[int, int | str],
        *,
        own_group: bool = True,
    ) -> None:
        """Start it.  The arguments and what it raises are those of `fleetspeak.client.process.spawn.spawn`."""
        self._own_group = own_group
        self._clock = reactor
        spawn(reactor, self, argv, environment, descriptors, own_group=own_group)

    # ---- its pipes

    def pause(self, descriptor: int) -> None:
        """Read no more from this pipe until `resume`; the child blocks when the pipe is full."""
        reader = self._pipe(descriptor)
        if reader is not None:
            reader.pauseProducing()

    def resume(self, descriptor: int) -> None:
        """Read again."""
        reader = self._pipe(descriptor)
        if reader is not None:
            reader.resumeProducing()

    def fileno(self, descriptor: int) -> int | None:
        """Our end of one of its pipes, while there is one."""
        pipe = self._pipe(descriptor)
        return None if pipe is None else pipe.fileno()

    def _pipe(self, descriptor: int) -> Any:
        return None if self._process is None else self._process.pipes.get(descriptor)

    # ---- its end

    def exited(self, within: float) -> Deferred[bool]:
        """Fires with True when the child is gone, or with False after so many seconds.  Cancellable."""
        if self.status is not None:
            return succeed(True)
        gone: Deferred[None] = Deferred(self._waiting_for_exit.remove)
        self._waiting_for_exit.append(gone)
        timed = gone.addTimeout(within, self._clock)
        return timed.addCallbacks(lambda _: True, _is_timeout)

    async def shut_down(self) -> None:
        """End it: end of file, after a second an interrupt, after another one a kill, of its whole group."""
        if self.input is not None:
            self.input.close()
        if await self.exited(self._grace):
            return
        self.send_signal(signal.SIGINT)
        if await self.exited(self._grace):
            return
        self.kill()
        if not await self.exited(self._grace):
            self._log.error(
                "child process {pid} seems to have survived being killed, and is left to itself; if `ps` shows it in "
                "state D, it waits for a disk or a network file system",
                pid=self.pid,
            )
            self.abandon()

    def send_signal(self, number: int) -> None:
        """Send a signal to the child alone, if it still runs."""
        if self._process is not None and self.status is None:
            self._signalled = True
            try:
                self._process.signalProcess(number)
            except error.ProcessExitedAlready:
                return

    @property
    def was_killed(self) -> bool:
        """A signal ended it that was not ours: a crash, or somebody else."""
        return self.status is not None and self.status.signal is not None and not self._signalled

    def kill(self) -> None:
        """Kill the child and what it has started, if it still runs; otherwise that was done when it exited."""
        if self.status is None and self.pid:
            self.send_signal(signal.SIGKILL)
            self._kill_group()

    def abandon(self) -> None:
        """Close all pipes, whatever they hold."""
        if self._process is not None:
            for pipe in list(self._process.pipes.values()):
                self._clock.callLater(0, _close, pipe)

    def _kill_group(self) -> None:
        if self._own_group:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return  # nobody is left there, or only what has become another user's

    # ---- what Twisted tells

    def connectionMade(self) -> None:  # noqa: N802
        """It runs."""
        assert isinstance(self.transport, ChildProcess)
        self._process = self.transport
        self.pid = self.transport.pid or 0
        LIVING.add(self.pid, own_group=self._own_group)
        for pipe in self.transport.pipes.values():
            if isinstance(pipe, CountingWriter):
                self.input = InputPipe(pipe)

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        """Pass it on; after the exit, as much as was in the pipe then."""
        if self.status is None:
            self._owner.child_wrote(childFD, data)
            return
        data = data[: self._left[childFD]]
        self._left[childFD] -= len(data)
        if not self._left[childFD]:
            self._stop_reading(childFD)
        if data:
            self._owner.child_wrote(childFD, data)

    def childConnectionLost(self, childFD: int) -> None:  # noqa: N802, N803
        """Pass it on."""
        self._owner.child_closed(childFD)

    def processExited(self, reason: Failure) -> None:  # noqa: N802
        """The child is gone, whoever may still hold its pipes."""
        ended: Any = reason.value  # ProcessDone or ProcessTerminated
        self.status = ExitStatus(ended.exitCode, ended.signal)
        self._kill_group()
        LIVING.discard(self.pid)
        self._owner.child_exited(self.status)
        for descriptor, pipe in list(self._process.pipes.items()):
            if isinstance(pipe, CountingWriter):
                # Later: the reactor may be about to tell of events by the numbers of descriptors, and a closed one's
                # number can be another pipe's by then.
                self._clock.callLater(0, _close, pipe)
            else:
                self._left[descriptor] = bytes_waiting(pipe.fileno())
                if not self._left[descriptor]:
                    self._stop_reading(descriptor)
        waiting, self._waiting_for_exit = self._waiting_for_exit, []
        for gone in waiting:
            gone.callback(None)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        """All pipes are closed as well."""
        self._owner.child_ended()

    def _stop_reading(self, descriptor: int) -> None:
        pipe = self._pipe(descriptor)
        if pipe is not None:
            pipe.loseConnection()


@implementer(IPullProducer)
class InputPipe:
    """The pipe to a child.  Takes one piece at a time, and tells when the pipe has taken all of it."""

    def __init__(self, writer: CountingWriter) -> None:
        self._writer: Any = writer
        self._piece = b""
        self._taken: Deferred[None] | None = None
        self._idle: list[Deferred[None]] = []
        self._busy = False
        self._closed = False

    @property
    def written(self) -> int:
        """Bytes that the pipe has taken."""
        return int(self._writer.written)

    @property
    def consumed(self) -> int:
        """Those of them that the child has read; final once the child is gone."""
        return int(self._writer.consumed)

    async def write(self, piece: bytes) -> None:
        """Write it, after what is being written.

        Cancelling it before its turn takes it back; later, the pipe still gets the rest.

        @raise ChildGone: the child does not take it any more, and has at most a part of it.
        """
        if not piece:
            return
        while self._busy:
            idle: Deferred[None] = Deferred(self._idle.remove)
            self._idle.append(idle)
            await idle
        if self._closed or self._writer.disconnected:
            raise ChildGone("the child takes no more messages")
        self._busy = True
        self._piece = piece
        self._taken = Deferred(self._forget)
        taken = self._taken
        self._writer.registerProducer(self, False)
        await taken

    def close(self) -> None:
        """No more will be written; the child gets the end of file behind what is being written."""
        self._closed = True
        self._writer.loseConnection()

    def _forget(self, _: Deferred[None]) -> None:
        self._taken = None

    def _settle(self, problem: ChildGone | None) -> None:
        self._busy = False
        taken, self._taken = self._taken, None
        if taken is not None:
            if problem is None:
                taken.callback(None)
            else:
                taken.errback(problem)
        while self._idle and not self._busy:
            self._idle.pop(0).callback(None)

    # ---- what the pipe tells

    def resumeProducing(self) -> None:  # noqa: N802
        """The pipe has taken everything so far: it gets the piece, or has got it."""
        if self._piece:
            piece, self._piece = self._piece, b""
            self._writer.write(piece)
        else:
            self._writer.unregisterProducer()
            self._settle(None)

    def stopProducing(self) -> None:  # noqa: N802
        """The pipe is closed."""
        self._piece = b""
        self._settle(ChildGone("the child ended before it took the message"))


def _close(pipe: Any) -> None:
    """Close a pipe, unless that was done."""
    if not pipe.disconnected:
        pipe.connectionLost(Failure(CONNECTION_DONE))  # type: ignore[no-untyped-call]


def _is_timeout(failure: Failure) -> bool:
    failure.trap(TimeoutError)  # type: ignore[no-untyped-call]
    return False
