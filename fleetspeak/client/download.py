"""The body of one answer on its way to the disk, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

from fleetspeak.client.partialfile import PartialFile
from fleetspeak.client.state import InThread
from fleetspeak.core.download import Head
from fleetspeak.errors import FleetspeakError, ProtocolError, TooLarge

MAX_WAITING = 256 * 1024
"""Bytes that may wait for the disk; then the connection is not read."""


class DiskProblem(FleetspeakError):
    """The disk does not take a file; another server would not help."""


class Disk:
    """One `PartialFile`, whose calls are made in threads, one after another, also when nobody waits for them."""

    def __init__(self, file: PartialFile, path: Path, in_thread: InThread) -> None:
        self.file = file
        self._path = path
        self._in_thread = in_thread
        self._line = DeferredLock()

    def run(self, call: Callable[..., None], *args: Any) -> Deferred[None]:
        """Make a call.  Cancelling gives up waiting for it, and leaves it going.  @raise DiskProblem: (in it)."""
        outcome: Deferred[None] = Deferred()
        self._line.run(self._in_thread, call, *args).addErrback(self._failed).addBoth(outcome.callback)
        return outcome

    def settled(self) -> Deferred[None]:
        """Fires when everything that was asked for so far is done."""
        return self.run(_nothing)

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        if not isinstance(error, OSError):
            return failure
        problem = DiskProblem(f"cannot write the file {self._path}: {error.strerror or error}")
        return Failure(problem)  # type: ignore[no-untyped-call]


class BodyToDisk(Protocol):
    """Appends a body to a file; `done` fires when all of it is written, or why not."""

    def __init__(self, disk: Disk, max_bytes: int) -> None:
        """@param max_bytes: how many may still come."""
        self._disk = disk
        self._left = max_bytes
        self._gathered = bytearray()
        self._writing = False
        self._paused = False
        self._ending: Failure | None = None
        self._is_over = False
        self.done: Deferred[None] = Deferred(lambda _: self._leave())

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._is_over:
            return
        if len(data) > self._left:
            self._fail(Failure(TooLarge("the file has more bytes than were announced, or than the limit")))  # type: ignore[no-untyped-call]
            return
        self._left -= len(data)
        self._gathered += data
        self._write()
        if len(self._gathered) > MAX_WAITING and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pauseProducing()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if not self._is_over:
            self._ending = reason
            self._write()

    def _write(self) -> None:
        """Write what was gathered while the disk was busy; what came before a break is written, too."""
        if self._writing or self._is_over:
            return
        if self._gathered:
            data, self._gathered = bytes(self._gathered), bytearray()
            self._writing = True
            self._disk.run(self._disk.file.write, data).addCallbacks(self._written, self._fail)
        elif self._ending is not None:
            self._end(None if self._ending.check(ResponseDone) else self._ending)  # type: ignore[no-untyped-call]

    def _written(self, _: None) -> None:
        self._writing = False
        self._write()
        if self._paused and not self._is_over:
            self._paused = False
            assert self.transport is not None
            self.transport.resumeProducing()  # type: ignore[attr-defined]

    def _fail(self, failure: Failure) -> None:
        self._end(failure)
        self._leave()

    def _leave(self) -> None:
        """The rest is of no interest: drop the connection."""
        self._is_over = True
        if self.transport is not None:
            self.transport.stopProducing()  # type: ignore[attr-defined]

    def _end(self, outcome: Failure | None) -> None:
        self._is_over = True
        if not self.done.called:
            self.done.callback(outcome)


def _nothing() -> None:
    """Take a turn in the line."""


def head_of(response: IResponse) -> Head:
    """What the head of a response says of a file.  Raises ProtocolError."""

    def header(name: str) -> str:
        values = response.headers.getRawHeaders(name, [])
        if len(values) > 1:
            raise ProtocolError(f"the answer has several headers {name}")
        return str(values[0]) if values else ""

    length = response.length
    return Head(
        status=response.code,
        length=None if length is UNKNOWN_LENGTH else int(length),
        content_range=header("content-range"),
        content_encoding=header("content-encoding"),
        etag=header("etag"),
        last_modified=header("last-modified"),
        date=header("date"),
    )
