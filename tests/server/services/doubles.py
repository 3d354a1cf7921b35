"""Services that do as a test tells them, and messages for them."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.interfaces import IServerService
from fleetspeak.pb import common

CLIENT = ids.ClientId(b"\0\0\0\0\0\0\0\1")


def message(service: str = "hello", number: int = 0, source: bytes = CLIENT, **fields: Any) -> common.Message:
    """A message from a client to a service."""
    made = common.Message(
        message_id=number.to_bytes(32, "big"),
        source=common.Address(client_id=source, service_name=service),
        destination=common.Address(service_name=service),
        message_type="Greeting",
        **fields,
    )
    made.creation_time.seconds = 42
    made.data.type_url, made.data.value = "type.googleapis.com/some.Type", b"payload"
    return made


@implementer(IServerService)
class InstantService:
    """Finishes each message at once, or raises `error`."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.seen: list[common.Message] = []
        self.events: list[str] = []

    def start(self) -> None:
        self.events.append("start")

    def stop(self) -> None:
        self.events.append("stop")

    def process(self, message: common.Message) -> None:
        copy = common.Message()
        copy.CopyFrom(message)
        self.seen.append(copy)
        if self.error is not None:
            raise self.error


@implementer(IServerService)
class SlowService:
    """Gives a Deferred for each message, which the test fires."""

    def __init__(self) -> None:
        self.running: list[Deferred[None]] = []
        self.cancelled = 0

    def start(self) -> None:
        """Ready."""

    def stop(self) -> None:
        """Done."""

    def process(self, message: common.Message) -> Awaitable[None]:
        work: Deferred[None] = Deferred(self._cancel)
        self.running.append(work)
        return work

    def _cancel(self, _: Deferred[None]) -> None:
        self.cancelled += 1

    def finish(self, count: int = 1) -> None:
        """End the oldest calls well."""
        for _ in range(count):
            self.running.pop(0).callback(None)


@implementer(IServerService)
class StubbornService(SlowService):
    """Does not care for being cancelled."""

    def process(self, message: common.Message) -> Awaitable[None]:
        return self._go_on()

    async def _go_on(self) -> None:
        while True:
            self.running = [Deferred(self._cancel)]
            with suppress(CancelledError):
                await self.running[0]
                return
