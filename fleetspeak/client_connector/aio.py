"""The connector for service programs that use asyncio: for daemons, and for what connects to a Socket service.

::

    connection = await connect(version="1.0")
    async for request in connection:
        await connection.send(answer_to(request))

`connect` without a path is for a daemon, which the client has started; with a path it connects to a Socket service.
Nothing blocks the event loop.  Every call can be cancelled.  Linux and macOS only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol

from fleetspeak.client_connector import inherited, socketfile
from fleetspeak.client_connector.messages import frame_of, heartbeat_message, startup_message
from fleetspeak.client_connector.relentless import ID_SIZE, READ_SIZE, Relentless
from fleetspeak.client_connector.socketfile import (
    ANSWER_TIME,
    FIRST_DELAY,
    ConnectionClosed,
    Delays,
    NotRunning,
    UnsafeSocket,
)
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

__all__ = ["Connection", "ConnectionClosed", "NotRunning", "ProtocolError", "UnsafeSocket", "connect"]

_log = logging.getLogger(__name__)


class Connection(Protocol):
    """A connection to the client, of either kind.  An async iterator over the messages that come."""

    async def send(self, message: common.Message, *, wait: bool = True) -> int:
        """Send a message; the client fills in its source.

        Done when the message is safe: for a daemon, when it is in the client's spool, or in the pipe if the client has
        none; over a socket, when the client has acknowledged it, which takes about 0.1 s and for a client without spool
        means that the server has it.  Several that are sent at a time wait together.

        If it is cancelled before the message's turn to be written, the message is not sent; later, it still is.

        @param message: needs a destination; one with a service name and no client id goes to the server.
        @param wait: False: do not wait for the message to be safe.
        @return: the size of the serialized message in bytes.
        @raise ValueError: no `fleetspeak.Message`, over 2 MiB, or addressed to the client itself.
        @raise ConnectionClosed: the message may not have arrived.
        """

    async def receive(self) -> common.Message:
        """The next message.  If it is cancelled, none is lost.

        @raise ConnectionClosed: there will be none any more.
        @raise ProtocolError: what came is not the protocol.
        """

    async def heartbeat(self) -> None:
        """Tell the client that this process is alive; over a socket it does nothing, because nobody watches that."""

    async def flush(self) -> None:
        """Done when everything that was sent so far is safe.  Raises ConnectionClosed."""

    async def close(self) -> None:
        """End the connection; whoever waits gets ConnectionClosed.  What is not safe then may be lost."""

    def __aiter__(self) -> Connection: ...
    async def __anext__(self) -> common.Message: ...
    async def __aenter__(self) -> Connection: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """`flush`, unless there was an exception, and `close`."""


async def connect(
    path: str | None = None,
    *,
    version: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109  # it limits the attempts; asyncio.timeout limits the whole call
) -> Connection:
    """Connect to the client, tell it who we are, and wait until it has answered.

    @param path: of the socket of a Socket service; None: this process is a daemon.
    @param version: of this program, for the reports on its use of resources.
    @param timeout: seconds to wait for somebody at the socket; None: for ever; 0: make one attempt.
    @raise NotRunning: nobody listens there (in time): the client is not running, or lacks the service.
    @raise UnsafeSocket: the socket is not as the client makes it (in time).
    @raise TimeoutError: the client did not answer in time; it may be busy with another process.
    @raise ValueError: no socket can have this path; without a path: this is no daemon.
    @raise ConnectionClosed: the client that had started this daemon is gone.
    """
    if path is None:
        daemon = DaemonConnection(*inherited.channel_descriptors(), inherited.ack_descriptor(), version)
        return await _begun(daemon, daemon.begin())
    connection = SocketConnection(path, version)
    return await _begun(connection, connection.begin(timeout))


class _Common:
    """What connections of both kinds have in common."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed: Exception | None = None
        """Why it is of no use any more."""

    def _notify(self) -> None:
        """Something has changed: whoever waits shall look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        """Raises what `_end` was given, if that comes first."""
        while not condition():
            if self._closed is not None:
                raise self._closed
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _end(self, error: Exception) -> None:
        """It is of no use any more."""
        self._closed = self._closed or error
        self._notify()

    def _raise_if_closed(self) -> None:
        if self._closed is not None:
            raise self._closed


class DaemonConnection(_Common):
    """The connection of a daemon, over three pipes that the client has handed down."""

    def __init__(self, read: int, write: int, acks: int | None, version: str | None) -> None:
        super().__init__()
        self._read, self._write, self._acks = read, write, acks
        for descriptor in self._descriptors():
            os.set_blocking(descriptor, False)
        self._machine = inherited.InheritedChannel(version, acks=acks is not None)
        self._queue: deque[_Piece] = deque()
        self._last_number = 0
        self._acks_ended = False
        self._reading = asyncio.Lock()

    async def begin(self) -> None:
        if self._acks is not None:
            self._loop.add_reader(self._acks, self._take_acks)
        await self._write_piece(_Piece(self._machine.hello))
        async with self._reading:
            await self._read_until(lambda: self._machine.opened)

    async def send(self, message: common.Message, *, wait: bool = True) -> int:
        frame, size = self._machine.frame(message)
        piece = _Piece(frame, counts=True)
        await self._write_piece(piece)
        if wait:
            await self._wait_for_ack(piece.number)
        return size

    async def receive(self) -> common.Message:
        async with self._reading:
            await self._read_until(lambda: self._machine.has_message)
            return self._machine.receive()

    async def heartbeat(self) -> None:
        await self._write_piece(_Piece(frame_of(heartbeat_message())))

    async def flush(self) -> None:
        queued = list(self._queue)
        await self._wait_for(lambda: not any(map(self._queue.__contains__, queued)))
        await self._wait_for_ack(self._last_number)

    async def close(self) -> None:
        if self._read < 0:
            return
        self._end(ConnectionClosed("the connection was closed"))
        for descriptor in self._descriptors():
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
            os.close(descriptor)
        self._read = self._write = -1
        self._acks = None
        self._queue.clear()

    def __aiter__(self) -> DaemonConnection:
        return self

    async def __anext__(self) -> common.Message:
        return await _next_of(self)

    async def __aenter__(self) -> DaemonConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _leave(self, kind)

    def _descriptors(self) -> list[int]:
        return [each for each in (self._read, self._write, self._acks) if each is not None and each >= 0]

    # ---- in

    async def _read_until(self, condition: Callable[[], bool]) -> None:
        """Read no more than that takes."""
        while not condition():
            self._raise_if_closed()
            try:
                data = os.read(self._read, self._machine.needed)
            except BlockingIOError:
                await self._readable()
                continue
            try:
                self._machine.received(data)
            except ProtocolError as error:
                self._end(error)
            else:
                if not data:
                    self._end(ConnectionClosed("the client is gone"))

    async def _readable(self) -> None:
        readable = False

        def tell() -> None:
            nonlocal readable
            readable = True
            self._loop.remove_reader(self._read)
            self._notify()

        self._loop.add_reader(self._read, tell)
        try:
            await self._wait_for(lambda: readable)
        finally:
            if self._read >= 0:
                self._loop.remove_reader(self._read)

    def _take_acks(self) -> None:
        assert self._acks is not None
        data = b""
        try:
            data = os.read(self._acks, READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            _log.warning("cannot read the ack pipe: %s", error)
        if data:
            self._machine.acks(data)
            self._notify()
        else:
            # What it has sent before may still be in the other pipe.
            self._loop.remove_reader(self._acks)
            self._acks_ended = True
            self._notify()

    async def _wait_for_ack(self, number: int) -> None:
        if self._acks is not None:
            await self._wait_for(lambda: self._machine.acked(number) or self._acks_ended)
            if not self._machine.acked(number):
                raise ConnectionClosed("the client went away before it had the message")

    # ---- out

    async def _write_piece(self, piece: _Piece) -> None:
        """Done when the pipe has all of it.  Cancelling takes it back if nothing of it was written yet."""
        self._raise_if_closed()
        self._queue.append(piece)
        if self._queue[0] is piece:
            self._write_some()
        try:
            await self._wait_for(lambda: not piece.rest)
        except asyncio.CancelledError:
            if not piece.begun and piece in self._queue:
                self._queue.remove(piece)
            raise

    def _write_some(self) -> None:
        """Write as much as the pipe takes, piece by piece."""
        self._loop.remove_writer(self._write)
        while self._queue:
            piece = self._queue[0]
            try:
                written = os.write(self._write, piece.rest)
            except BlockingIOError:
                self._loop.add_writer(self._write, self._write_some)
                break
            except OSError as error:
                self._end(ConnectionClosed(f"the client is gone: {error}"))
                return
            if not piece.begun:
                piece.begun = True
                if piece.counts:
                    piece.number = self._last_number = self._machine.written()
            piece.rest = piece.rest[written:]
            if not piece.rest:
                self._queue.popleft()
        self._notify()


class _Piece:
    """What is written as a whole."""

    def __init__(self, data: bytes, *, counts: bool = False) -> None:
        self.rest = memoryview(data)
        self.counts = counts
        """It is one of the messages that the client acknowledges."""
        self.begun = False
        self.number = 0


class SocketConnection(_Common):
    """The connection to a Socket service, which is made again whenever it is lost."""

    def __init__(self, path: str, version: str | None) -> None:
        super().__init__()
        self._path = path
        self.machine = Relentless(startup_message(version), lambda: os.urandom(ID_SIZE))
        self._wire: _Wire | None = None
        self._senders = 0
        self._keeping_up: asyncio.Task[None] | None = None

    async def begin(self, patience: float | None) -> None:
        deadline = None if patience is None else time.monotonic() + patience
        delays = Delays()
        while True:
            try:
                wire = await self._connect()
                break
            except OSError as error:
                delay = delays.next()
                if deadline is not None and time.monotonic() + delay > deadline:
                    raise
                _log.warning("cannot connect to %s, trying again in %.1f s: %s", self._path, delay, error)
                await asyncio.sleep(delay)
        self._keeping_up = self._loop.create_task(self._keep_up(wire), name=f"fleetspeak {self._path}")
        left = None if deadline is None else max(ANSWER_TIME, deadline - time.monotonic())
        try:
            await asyncio.wait_for(self._wait_for(lambda: self.machine.opened), left)
        except TimeoutError:
            raise TimeoutError("the client did not answer; it may be busy with another process") from None

    async def send(self, message: common.Message, *, wait: bool = True) -> int:
        self._raise_if_closed()
        await self._wait_for_acks(lambda: self.machine.has_room)
        message_id, size = self.machine.send(message)
        self.pump()
        if wait:
            await self._wait_for_acks(lambda: not self.machine.is_pending(message_id))
        return size

    async def receive(self) -> common.Message:
        self._raise_if_closed()
        await self._wait_for(lambda: self.machine.has_message)
        received = self.machine.receive()
        assert received is not None
        self.pump()
        return received[0]

    async def heartbeat(self) -> None:
        self._raise_if_closed()

    async def flush(self) -> None:
        sent = self.machine.pending_ids()
        await self._wait_for_acks(lambda: not any(map(self.machine.is_pending, sent)))

    async def close(self) -> None:
        self._end(ConnectionClosed("the connection was closed"))
        if self._wire is not None:
            self._wire.transport.abort()
        if self._keeping_up is not None:
            self._keeping_up.cancel()
            await asyncio.wait([self._keeping_up])

    def __aiter__(self) -> SocketConnection:
        return self

    async def __anext__(self) -> common.Message:
        return await _next_of(self)

    async def __aenter__(self) -> SocketConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _leave(self, kind)

    async def _wait_for_acks(self, condition: Callable[[], bool]) -> None:
        """Wait for what a LocalAck brings, which may be behind messages that nobody receives at the moment."""
        self._senders += 1
        self.pump()
        try:
            await self._wait_for(condition)
        finally:
            self._senders -= 1

    # ---- the connection

    @property
    def wants_data(self) -> bool:
        """Should it be read?"""
        return self.machine.wants_data(waiting=self._senders > 0)

    def changed(self) -> None:
        """Something came."""
        self.machine.acked()
        self._notify()

    def pump(self) -> None:
        """Write and read what can be, if there is a connection."""
        if self._wire is not None:
            self._wire.pump()

    async def _connect(self) -> _Wire:
        """Raises NotRunning, UnsafeSocket, or another OSError."""
        socketfile.check(self._path)
        try:
            _, wire = await self._loop.create_unix_connection(lambda: _Wire(self, self._loop), self._path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"nobody listens at {self._path}: the client is not running") from error
        return wire

    async def _keep_up(self, wire: _Wire) -> None:
        delays = Delays()
        while True:
            since = time.monotonic()
            try:
                self._wire = wire
                problem = await wire.lost
                if time.monotonic() - since > FIRST_DELAY and wire.opened:
                    delays.reset()
                else:
                    await self._sleep(delays.next(), problem)
            finally:
                self._wire = None
            while True:
                try:
                    wire = await self._connect()
                    break
                except OSError as error:
                    await self._sleep(delays.next(), str(error))

    async def _sleep(self, seconds: float, problem: str) -> None:
        self._wire = None
        _log.warning("no connection to %s, trying again in %.1f s: %s", self._path, seconds, problem)
        await asyncio.sleep(seconds)


class _Wire(asyncio.BufferedProtocol):
    """One connection to the socket: carries what the machine has to say, and what it is told."""

    def __init__(self, owner: SocketConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._machine = owner.machine
        self._buffer = bytearray(READ_SIZE)
        self._full = False
        self._reading = True
        self._problem = "the client has closed the connection"
        self._timer: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[str] = loop.create_future()
        """Fires with the reason."""
        self.opened = False
        """Did the client answer?"""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._machine.connected(self._loop.time())
        self.pump()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._take(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> None:
        self._take(b"")

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.pump()

    def connection_lost(self, error: Exception | None) -> None:
        self.opened = self._machine.opened
        self._machine.disconnected()
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost.done():
            self.lost.set_result(str(error) if error else self._problem)

    def pump(self) -> None:
        """Write what there is while it is taken; read if somebody wants to."""
        if self.transport.is_closing():
            return
        while not self._full and (data := self._machine.output()):
            self.transport.write(data)
        wanted = self._owner.wants_data
        if wanted and not self._reading:
            self._machine.resumed(self._loop.time())
            self.transport.resume_reading()
        elif self._reading and not wanted:
            self.transport.pause_reading()
        self._reading = wanted
        self._watch()

    def _take(self, data: bytes) -> None:
        try:
            self._machine.received(data, self._loop.time())
        except ProtocolError as error:
            self._fail(str(error))
        finally:
            self._owner.changed()
        self.pump()

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self.transport.abort()

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._machine.deadline
        if deadline is not None and self._reading:
            self._timer = self._loop.call_at(deadline, self._check)

    def _check(self) -> None:
        self._timer = None
        try:
            self._machine.check(self._loop.time())
        except ProtocolError as error:
            self._fail(str(error))


async def _begun(connection: Connection, beginning: Awaitable[None]) -> Connection:
    try:
        await beginning
    except BaseException:
        await connection.close()
        raise
    return connection


async def _next_of(connection: Connection) -> common.Message:
    try:
        return await connection.receive()
    except ConnectionClosed:
        raise StopAsyncIteration from None


async def _leave(connection: Connection, kind: type[BaseException] | None) -> None:
    try:
        if kind is None:
            await connection.flush()
    finally:
        await connection.close()
