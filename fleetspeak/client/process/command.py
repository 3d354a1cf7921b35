"""Runs a command to its end: input in, output out, within limits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from fleetspeak.client.process.child import Child, ChildGone, ExitStatus
from fleetspeak.errors import FleetspeakError

_STDIN = 0
_STDOUT = 1
_STDERR = 2


class CommandFailed(FleetspeakError):
    """The command could not be started, or was not let finish; the text says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes


class Command:
    """One run of a command, in a process group of its own that ends with it."""

    def __init__(
        self, reactor: Any, *, time_limit: float, output_limit: int, variables: Mapping[str, str] | None = None
    ) -> None:
        """@param time_limit: seconds the command may run.
        @param output_limit: bytes it may write, to standard output and standard error together.
        @param variables: added to our environment.
        """
        self._clock = reactor
        self._time_limit = time_limit
        self._output_limit = output_limit
        self._environment = {**os.environ, **(variables or {})}
        self._child = Child(self)
        self._streams = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self._problem = ""
        self._timer: IDelayedCall | None = None
        self._when_ended: list[Deferred[None]] = []
        self._ended = False

    async def run(self, argv: Sequence[str], data: bytes) -> Result:
        """Run it with `data` as standard input.  Cancelling kills it.

        @raise CommandFailed: it could not be started, or it went over a limit and was killed.
        """
        try:
            self._child.start(self._clock, argv, self._environment, {_STDIN: "w", _STDOUT: "r", _STDERR: "r"})
        except (OSError, ValueError) as error:
            raise CommandFailed(_reason(error)) from error
        self._timer = self._clock.callLater(self._time_limit, self._out_of_time)
        feeding = Deferred.fromCoroutine(self._feed(data))
        try:
            await self._end()
        finally:
            self._child.kill()
            feeding.cancel()
            if self._timer is not None:
                self._timer.cancel()
        if self._problem:
            raise CommandFailed(self._problem)
        assert self._child.status is not None
        return Result(self._child.status, bytes(self._streams[_STDOUT]), bytes(self._streams[_STDERR]))

    @property
    def ended(self) -> bool:
        """It does not run: not yet, or not any more."""
        return self._ended or not self._child.pid

    def kill(self) -> Deferred[None]:
        """End it if it runs.  @return: fires when it is gone."""
        self._kill("killed")
        return self._end()

    def _end(self) -> Deferred[None]:
        if self.ended:
            return succeed(None)
        ended: Deferred[None] = Deferred(self._when_ended.remove)
        self._when_ended.append(ended)
        return ended

    async def _feed(self, data: bytes) -> None:
        assert self._child.input is not None
        try:
            await self._child.input.write(data)
        except (ChildGone, CancelledError):
            return  # what a command does not read, it does not need
        self._child.input.close()

    def _kill(self, problem: str) -> None:
        if not self._problem:
            self._problem = problem
            self._child.kill()

    def _out_of_time(self) -> None:
        self._timer = None
        self._kill(f"not finished after {self._time_limit:g} s")

    # ---- ChildOwner

    def child_wrote(self, descriptor: int, data: bytes) -> None:
        """Keep it, up to the limit."""
        if self._problem:
            return
        self._streams[descriptor] += data
        if sum(map(len, self._streams.values())) > self._output_limit:
            self._kill(f"more than {self._output_limit} bytes of output")

    def child_closed(self, descriptor: int) -> None:
        """It may do so."""

    def child_exited(self, status: ExitStatus) -> None:
        """What it wrote before still comes."""

    def child_ended(self) -> None:
        """That was all."""
        self._ended = True
        waiting, self._when_ended = self._when_ended, []
        for ended in waiting:
            ended.callback(None)


def _reason(error: Exception) -> str:
    """Why the system does not start it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}: {error.filename}"
    return str(error)
