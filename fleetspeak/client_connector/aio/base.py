"""What connections of both kinds have in common: waiting for a change, iterating, leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from fleetspeak.client_connector.socketfile import ConnectionClosed
from fleetspeak.pb import common


class BaseConnection:
    """Somebody waits until something is true, and looks again each time something has changed."""

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

    # ---- what the kinds of connections do by themselves

    async def receive(self) -> common.Message:
        """See `fleetspeak.client_connector.aio.Connection`; so with the others."""
        raise NotImplementedError

    async def flush(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    # ---- and what follows from that

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> common.Message:
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            await self.close()
