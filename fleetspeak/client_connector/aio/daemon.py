"""The connection of a daemon, over pipes that the client has handed down."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable

from fleetspeak.client_connector import inherited
from fleetspeak.client_connector.aio.base import BaseConnection
from fleetspeak.client_connector.messages import frame_of, heartbeat_message
from fleetspeak.client_connector.socketfile import ConnectionClosed
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

_log = logging.getLogger(__name__)

_ACKS_SIZE = 4096
"""Bytes of acks to read at a time."""


class DaemonConnection(BaseConnection):
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
            data = os.read(self._acks, _ACKS_SIZE)
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
