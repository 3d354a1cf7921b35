"""The connection of a daemon, over pipes that the client has handed down."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.client_connector import inherited
from fleetspeak.client_connector.messages import frame_of, heartbeat_message
from fleetspeak.client_connector.socketfile import ConnectionClosed
from fleetspeak.client_connector.tx.base import Iterating, Waiters
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

_T = TypeVar("_T")

_ACKS_SIZE = 4096
"""Bytes of acks to read at a time."""


class DaemonConnection(Iterating):
    """The connection of a daemon, over three pipes that the client has handed down."""

    _log = Logger()

    def __init__(self, reactor: Any, read: int, write: int, acks: int | None, version: str | None) -> None:
        self._machine = inherited.InheritedChannel(version, acks=acks is not None)
        self._waiters = Waiters()
        self._input = _Input(reactor, read, lambda: self._machine.needed, self._take)
        self._output = _Output(reactor, write, self._waiters.look, self._lost)
        self._acks = None if acks is None else _Input(reactor, acks, lambda: _ACKS_SIZE, self._take_acks)
        self._acks_ended = False
        self._last_number = 0
        self._receivers = 0

    async def begin(self) -> None:
        if self._acks is not None:
            self._acks.read_on(True)
        await self._write(_Piece(self._machine.hello))
        await self._read_until(lambda: self._machine.opened)

    def send(self, message: common.Message, *, wait: bool = True) -> Deferred[int]:
        return Deferred.fromCoroutine(self._send(message, wait))

    def receive(self) -> Deferred[common.Message]:
        return self._read_until(lambda: self._machine.has_message).addCallback(lambda _: self._machine.receive())

    def heartbeat(self) -> Deferred[None]:
        return self._write(_Piece(frame_of(heartbeat_message())))

    def flush(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._flush())

    def close(self) -> Deferred[None]:
        self._input.close()
        self._output.close()
        if self._acks is not None:
            self._acks.close()
        self._waiters.close(ConnectionClosed("the connection was closed"))
        return succeed(None)

    def __aiter__(self) -> DaemonConnection:
        return self

    async def _send(self, message: common.Message, wait: bool) -> int:
        frame, size = self._machine.frame(message)
        piece = _Piece(frame, self._number)
        await self._write(piece)
        if wait:
            await self._wait_for_ack(piece.number)
        return size

    async def _flush(self) -> None:
        await self._waiters.wait_for(self._output.until_now())
        await self._wait_for_ack(self._last_number)

    def _number(self) -> int:
        self._last_number = self._machine.written()
        return self._last_number

    def _write(self, piece: _Piece) -> Deferred[None]:
        """Fires when the pipe has all of it.  Cancelling takes it back if nothing of it was written yet."""
        if self._waiters.closed is None:
            self._output.put(piece)
        written = self._waiters.wait_for(lambda: not piece.rest)
        return written.addErrback(self._take_back, piece)

    def _take_back(self, failure: Failure, piece: _Piece) -> Failure:
        self._output.take_back(piece)
        return failure

    async def _wait_for_ack(self, number: int) -> None:
        if self._acks is not None:
            await self._waiters.wait_for(lambda: self._machine.acked(number) or self._acks_ended)
            if not self._machine.acked(number):
                raise ConnectionClosed("the client went away before it had the message")

    # ---- in

    def _read_until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Read no more than that takes."""
        reading = self._waiters.wait_for(condition)
        if not reading.called:
            self._receivers += 1
            self._input.read_on(True)
            reading.addBoth(self._read_enough)
        return reading

    def _read_enough(self, result: _T) -> _T:
        self._receivers -= 1
        self._input.read_on(self._receivers > 0)
        return result

    def _take(self, data: bytes) -> None:
        try:
            self._machine.received(data)
        except ProtocolError as error:
            self._input.read_on(False)
            self._waiters.close(error)
            return
        if data:
            self._waiters.look()
        else:
            self._lost("the client has closed the channel")

    def _take_acks(self, data: bytes) -> None:
        if data:
            self._machine.acks(data)
        else:
            # What the client has sent before may still be in the other pipe.
            self._acks_ended = True
        self._waiters.look()

    def _lost(self, problem: str) -> None:
        self._input.read_on(False)
        self._waiters.close(ConnectionClosed(f"the client is gone: {problem}"))


class _Piece:
    """What is written as a whole."""

    def __init__(self, data: bytes, make_number: Callable[[], int] | None = None) -> None:
        """@param make_number: called when it is begun."""
        self.rest = memoryview(data)
        self.begun = False
        self.number = 0
        self._make_number = make_number

    def advance(self, written: int) -> None:
        """So many bytes more were written."""
        if not self.begun and self._make_number is not None:
            self.number = self._make_number()
        self.begun = True
        self.rest = self.rest[written:]


class _Descriptor:
    """A file descriptor of ours that the reactor watches."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._reactor = reactor
        self._descriptor = descriptor

    def fileno(self) -> int:
        """See `IFileDescriptor`."""
        return self._descriptor

    def logPrefix(self) -> str:
        """See `ILoggingContext`."""
        return "fleetspeak"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor will not watch it any more."""
        self.close()

    def close(self) -> None:
        """Watch it no more, and close it."""
        if self._descriptor < 0:
            return
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        # Later: the reactor may be about to tell of events by the numbers of descriptors, and a closed one's number can
        # be another one's by then.
        self._reactor.callLater(0, os.close, self._descriptor)
        self._descriptor = -1


@implementer(IReadDescriptor)
class _Input(_Descriptor):
    """Reads as much as is needed, while somebody needs it."""

    def __init__(self, reactor: Any, descriptor: int, needed: Callable[[], int], take: Callable[[bytes], None]) -> None:
        super().__init__(reactor, descriptor)
        self._needed = needed
        self._take = take

    def read_on(self, on: bool) -> None:
        """Read, or do not."""
        if self._descriptor >= 0:
            (self._reactor.addReader if on else self._reactor.removeReader)(self)

    def doRead(self) -> None:
        """There is something."""
        try:
            data = os.read(self._descriptor, self._needed())
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._reactor.removeReader(self)
        self._take(data)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found the end, without anything in front of it."""
        self._take(b"")


@implementer(IWriteDescriptor)
class _Output(_Descriptor):
    """Writes piece after piece."""

    def __init__(self, reactor: Any, descriptor: int, written: Callable[[], None], lost: Callable[[str], None]) -> None:
        super().__init__(reactor, descriptor)
        self._written = written
        self._lost = lost
        self._queue: deque[_Piece] = deque()

    def put(self, piece: _Piece) -> None:
        """Write it behind what is being written."""
        self._queue.append(piece)
        if self._queue[0] is piece:
            self.doWrite()

    def take_back(self, piece: _Piece) -> None:
        """Do not write it, unless that has begun."""
        if not piece.begun and piece in self._queue:
            self._queue.remove(piece)

    def until_now(self) -> Callable[[], bool]:
        """Tells whether everything is written that is in the queue now."""
        queued = list(self._queue)
        return lambda: not any(piece.rest for piece in queued)

    def doWrite(self) -> None:
        """There may be room."""
        while self._queue:
            piece = self._queue[0]
            try:
                piece.advance(os.write(self._descriptor, piece.rest))
            except BlockingIOError:
                self._reactor.addWriter(self)
                break
            except OSError as error:
                self._reactor.removeWriter(self)
                self._lost(str(error))
                return
            if not piece.rest:
                self._queue.popleft()
        if not self._queue:
            self._reactor.removeWriter(self)
        self._written()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found that the other end is closed."""
        self._lost("it has closed its end")
