"""Hands a child's messages to the client, and holds the child up while the client cannot take them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak.pb import common

PIPE_SHARE = 24 * 1024
"""Bytes that were read and are not accepted, above which a process's pipe is read no more.  Twisted reads 8 KiB at a
time; so together with a pipe of `fleetspeak.client.process.ackpipe.SMALL_PIPE` that is at most 64 KiB, the content of
one pipe as Linux makes them."""

ACKED_SHARE = 4 * 1024 * 1024
"""The same for a process that keeps what it sends until it is accepted."""

MAX_FLYING = 100
"""Messages of one process that may be on their way into the outbox."""


class Tap(Protocol):
    """Where the messages come from (`fleetspeak.client.process.child.Child`)."""

    def pause(self, descriptor: int) -> None:
        """Read no more from this pipe."""

    def resume(self, descriptor: int) -> None:
        """Read it again."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A message that was sent."""

    size: int
    accepted: Deferred[None]
    settled: bool = False


class Outflow:
    """Sends messages in their order, several at a time, so that they share a write of the spool.

    While more than its share is on the way, the pipes that the messages come from are not read.
    """

    _log = Logger()

    def __init__(
        self,
        service: str,
        send: Callable[[common.Message], Deferred[None]],
        tap: Tap,
        descriptors: Iterable[int],
        share: int = PIPE_SHARE,
    ) -> None:
        """@param share: bytes that may be on the way; above that, nothing more is read."""
        self._service = service
        self._send = send
        self._tap = tap
        self._descriptors = tuple(descriptors)
        self._share = share
        self._queue: deque[common.Message] = deque()
        self._flying: deque[_Flight] = deque()
        self._bytes = 0
        """Of those in flight that are not accepted yet."""
        self._held = 0
        self._settled = 0
        """Messages that were accepted or refused, and so were all before them."""
        self._tell: Callable[[int], None] | None = None
        self._paused = False
        self._pumping = False
        self._on_resume: Callable[[], None] | None = None
        self._when_done: list[Deferred[None]] = []
        self._dropping = False

    @property
    def blocked(self) -> bool:
        """Are the pipes not read, because messages wait?"""
        return self._paused

    @property
    def waiting(self) -> bool:
        """Does any message wait?  Then the process may wait, too: for its pipe, or for our word that we have it."""
        return bool(self._flying or self._queue)

    def put(
        self, messages: Iterable[common.Message], on_resume: Callable[[], None] | None = None, held: int = 0
    ) -> None:
        """Send these after the earlier ones.

        @param on_resume: called if reading had to wait, when the pipes are read again.
        @param held: bytes that were read of a message that is not whole yet.
        """
        self._queue.extend(messages)
        self._held = held
        self._on_resume = on_resume
        self._pump()

    def tell_from_here(self, tell: Callable[[int], None]) -> None:
        """Call `tell` with how many of the messages from now on are accepted (or refused), whenever that grows.

        Whoever sends them waits for that: more of them may be on the way, because none is lost with the client.
        """
        base = self._settled + len(self._flying) + len(self._queue)
        self._share = ACKED_SHARE
        self._tell = lambda settled: tell(settled - base) if settled > base else None

    def finish(self) -> Deferred[None]:
        """Fires when everything was sent.  Cancellable."""
        done: Deferred[None] = Deferred(self._when_done.remove)
        if self._flying or self._queue:
            self._when_done.append(done)
        else:
            done.callback(None)
        return done

    def drop(self) -> None:
        """Take back what waits, and let nothing wait any more."""
        self._dropping = True
        for flight in list(self._flying):
            flight.accepted.cancel()
        self._pump()

    # ---- how

    def _pump(self) -> None:
        """Send what may be sent now; then see whether the pipes may be read."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._queue and self._has_room(self._queue[0]):
                self._send_one(self._queue.popleft())
        finally:
            self._pumping = False
        self._land()
        self._pause_or_resume()
        if not self._flying and not self._queue:
            waiting, self._when_done = self._when_done, []
            for done in waiting:
                done.callback(None)

    def _has_room(self, message: common.Message) -> bool:
        return not self._bytes or (
            len(self._flying) < MAX_FLYING and self._bytes + message.ByteSize() <= max(self._share, PIPE_SHARE)
        )

    def _send_one(self, message: common.Message) -> None:
        size = max(1, message.ByteSize())
        flight = _Flight(size, maybeDeferred(self._send, message))
        self._flying.append(flight)
        self._bytes += size
        flight.accepted.addErrback(self._not_accepted, message)
        flight.accepted.addBoth(self._accepted, flight)
        if self._dropping and not flight.settled:
            flight.accepted.cancel()

    def _not_accepted(self, failure: Failure, message: common.Message) -> None:
        if not failure.check(ValueError):  # type: ignore[no-untyped-call]
            # It was not refused, but is lost with the client that is about to stop: its sender must not be told that
            # it is safe, nor hear of those behind it.
            self._tell = None
        if failure.check(CancelledError):  # type: ignore[no-untyped-call]
            self._log.warn("service {service}: a message of its process was dropped", service=self._service)
        else:
            self._log.error(
                "service {service}: a message of type {type!r} of its process cannot be sent: {error}",
                service=self._service,
                type=message.message_type,
                error=failure.value,
            )

    def _accepted(self, _: object, flight: _Flight) -> None:
        flight.settled = True
        self._bytes -= flight.size
        self._pump()

    def _land(self) -> None:
        """Count what has arrived, as far as everything before it has."""
        before = self._settled
        while self._flying and self._flying[0].settled:
            self._flying.popleft()
            self._settled += 1
        if self._tell is not None and self._settled != before:
            self._tell(self._settled)

    def _pause_or_resume(self) -> None:
        """What is on the way and what is held stay within the share, but for a single message that is larger."""
        full = bool(self._bytes) and (
            bool(self._queue) or len(self._flying) >= MAX_FLYING or self._bytes + self._held >= self._share
        )
        if full == self._paused:
            return
        self._paused = full
        for descriptor in self._descriptors:
            (self._tap.pause if full else self._tap.resume)(descriptor)
        if not full and self._on_resume is not None:
            self._on_resume()
