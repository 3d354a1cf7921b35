"""Hands a child's messages to the client, and holds the child up while the client cannot take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from fleetspeak.pb import common


class Tap(Protocol):
    """Where the messages come from (`fleetspeak.client.process.child.Child`)."""

    def pause(self, descriptor: int) -> None:
        """Read no more from this pipe."""

    def resume(self, descriptor: int) -> None:
        """Read it again."""


class Outflow:
    """Sends messages one after the other; while one of them waits, the pipes they come from are not read."""

    _log = Logger()

    def __init__(
        self, service: str, send: Callable[[common.Message], Deferred[None]], tap: Tap, descriptors: Iterable[int]
    ) -> None:
        self._service = service
        self._send = send
        self._tap = tap
        self._descriptors = tuple(descriptors)
        self._queue: deque[common.Message] = deque()
        self._sending: Deferred[None] | None = None
        self._on_resume: Callable[[], None] | None = None
        self._dropping = False

    @property
    def blocked(self) -> bool:
        """Does a message wait?"""
        return self._sending is not None

    def put(self, messages: Iterable[common.Message], on_resume: Callable[[], None] | None = None) -> None:
        """Send these after the earlier ones.

        @param on_resume: called if they had to wait, when the pipes are read again.
        """
        self._queue.extend(messages)
        if self._sending is not None:
            return
        sending = Deferred.fromCoroutine(self._send_all())
        if sending.called:
            return
        self._sending = sending
        self._on_resume = on_resume
        for descriptor in self._descriptors:
            self._tap.pause(descriptor)
        sending.addCallback(self._resume)

    def finish(self) -> Deferred[None]:
        """Fires when everything was sent."""
        done: Deferred[None] = Deferred()
        if self._sending is None:
            done.callback(None)
        else:
            self._sending.chainDeferred(done)
        return done

    def drop(self) -> None:
        """Take back what waits, and let nothing wait any more."""
        self._dropping = True
        if self._sending is not None:
            self._sending.cancel()

    async def _send_all(self) -> None:
        while self._queue:
            message = self._queue.popleft()
            try:
                accepted = self._send(message)
                if self._dropping:
                    accepted.cancel()
                await accepted
            except CancelledError:
                self._log.warn("service {service}: a message of its process was dropped", service=self._service)
            except Exception as error:
                self._log.error(
                    "service {service}: a message of type {type!r} of its process cannot be sent: {error}",
                    service=self._service,
                    type=message.message_type,
                    error=error,
                )

    def _resume(self, _: None) -> None:
        self._sending = None
        on_resume, self._on_resume = self._on_resume, None
        for descriptor in self._descriptors:
            self._tap.resume(descriptor)
        if on_resume is not None:
            on_resume()
