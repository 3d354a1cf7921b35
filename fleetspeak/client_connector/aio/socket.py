"""The connection to a Socket service, which is made again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from fleetspeak.client_connector import socketfile
from fleetspeak.client_connector.aio.base import BaseConnection
from fleetspeak.client_connector.messages import startup_message
from fleetspeak.client_connector.relentless import ID_SIZE, OVERFULL, READ_SIZE, Relentless
from fleetspeak.client_connector.socketfile import ANSWER_TIME, FIRST_DELAY, ConnectionClosed, Delays, NotRunning
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

_log = logging.getLogger(__name__)


class SocketConnection(BaseConnection):
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
        self._keeping_up.add_done_callback(self._kept_up)
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

    async def _wait_for_acks(self, condition: Callable[[], bool]) -> None:
        """Wait for what a LocalAck brings, which may be behind messages that nobody receives at the moment."""
        self._senders += 1
        self.pump()
        try:
            await self._wait_for(lambda: condition() or self.machine.overfull)
        finally:
            self._senders -= 1
        if not condition():
            raise BufferError(OVERFULL)

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

    def _kept_up(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the connection to %s failed", self._path, exc_info=error)
            self._end(ConnectionClosed(str(error)))

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
