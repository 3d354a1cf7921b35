"""Messages on their way to the server: a thin shell of Deferreds over the ledger that decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from fleetspeak.core.outbox import Entry, OutboxLedger
from fleetspeak.pb import common

MAX_MESSAGE = 15 * 1024 * 1024
"""Bytes in one message.  No server takes a record over 20 MiB; a message that could never leave would hold up
everything behind it, for ever."""


class OutboxClosed(Exception):
    """The client is stopping: no more messages are taken."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A message that found the queue of its priority full."""

    message: common.Message
    size: int
    on_ack: Callable[[], None] | None
    accepted: Deferred[None]


class ClientOutbox:
    """The three queues of messages to the server; see `fleetspeak.client.link.Outbox` for the communicator's side."""

    _log = Logger()

    def __init__(self, ledger: OutboxLedger | None = None) -> None:
        self._ledger = ledger or OutboxLedger()
        self._waiting: dict[int, deque[_Waiting]] = {priority: deque() for priority in common.Message.Priority.values()}
        self._when_ready: list[Deferred[None]] = []
        self._closed = False

    # ---- for whoever sends

    @property
    def spooled(self) -> bool:
        """Is a message of a service on the disk when it is accepted?"""
        return False

    def submit(self, message: common.Message, on_ack: Callable[[], None] | None = None) -> Deferred[None]:
        """Take a message; an unknown priority becomes MEDIUM.

        @return: fires when the queue of its priority has taken it, in order of submission; cancelling takes the
            message back if it was not taken yet.  Fails with OutboxClosed, or with ValueError for a message that
            no server would take.
        """
        if self._closed:
            return fail(OutboxClosed("the client is stopping"))
        size = message.ByteSize()
        if size > MAX_MESSAGE:
            return fail(ValueError(f"message of {size} bytes, only {MAX_MESSAGE} allowed"))
        waiting = self._waiting.get(message.priority)
        if waiting is None:
            message.priority = common.Message.MEDIUM
            waiting = self._waiting[common.Message.MEDIUM]
        if not waiting and self._ledger.accepts(message.priority):
            self._ledger.add(message, size, on_ack)
            self._tell_ready()
            return succeed(None)
        accepted: Deferred[None] = Deferred(lambda _: waiting.remove(entry))
        entry = _Waiting(message, size, on_ack, accepted)
        waiting.append(entry)
        return accepted

    def pending(self, priority: common.Message.Priority.ValueType) -> tuple[int, int]:
        """Messages that were taken and not acked yet: how many, and their bytes."""
        return self._ledger.pending(priority)

    def close(self) -> None:
        """Take no more; whoever waits gets OutboxClosed."""
        self._closed = True
        for waiting in self._waiting.values():
            while waiting:
                waiting.popleft().accepted.errback(OutboxClosed("the client is stopping"))

    # ---- for the communicator

    def take(self, max_count: int, max_bytes: int) -> list[Entry]:
        """As many as fit, by priority and then age; see `fleetspeak.client.link.Outbox`."""
        return self._ledger.take(max_count, max_bytes)

    def when_ready(self) -> Deferred[None]:
        """Fires when `take` will give something."""
        if self._ledger.ready:
            return succeed(None)
        ready: Deferred[None] = Deferred(self._when_ready.remove)
        self._when_ready.append(ready)
        return ready

    def ack(self, entries: Sequence[Entry]) -> None:
        """The server has them: make room, and tell whoever asked to be told."""
        self._ledger.ack(entries)
        for entry in entries:
            if entry.on_ack is not None:
                try:
                    entry.on_ack()
                except Exception:
                    self._log.failure("the callback of an acknowledged message failed")
        self._admit()

    def nack(self, entries: Sequence[Entry]) -> None:
        """They come again."""
        self._ledger.nack(entries)
        self._tell_ready()

    def _admit(self) -> None:
        """Move in whoever waited for the room there is now."""
        admitted = False
        for priority, waiting in self._waiting.items():
            while waiting and self._ledger.accepts(common.Message.Priority.ValueType(priority)):
                entry = waiting.popleft()
                self._ledger.add(entry.message, entry.size, entry.on_ack)
                admitted = True
                entry.accepted.callback(None)
        if admitted:
            self._tell_ready()

    def _tell_ready(self) -> None:
        if self._when_ready and self._ledger.ready:
            listeners, self._when_ready = self._when_ready, []
            for ready in listeners:
                ready.callback(None)
