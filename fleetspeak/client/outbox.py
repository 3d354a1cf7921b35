"""Messages on their way to the server: a thin shell of Deferreds over the ledger that decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from fleetspeak.client.spool.spool import Pending, Spool
from fleetspeak.client.stats import Stats
from fleetspeak.core.outbox import MAX_PENDING_COUNT, ORDER, Entry, FlowFilter, OutboxLedger
from fleetspeak.core.stored import Priority, Stored
from fleetspeak.ids import ClientId
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
    """The three queues of messages to the server; see `fleetspeak.client.link.Outbox` for the communicator's side.

    With a spool, the messages of services are accepted when they are on the disk.  A queue then holds the oldest of
    its priority, and is filled from the disk as the server takes them.
    """

    _log = Logger()

    def __init__(
        self,
        ledger: OutboxLedger | None = None,
        *,
        spool: Spool | None = None,
        stats: Stats | None = None,
        client_id: Callable[[], ClientId] | None = None,
    ) -> None:
        """@param client_id: who the client is now; messages that were stamped before a rekey are stamped anew."""
        self._ledger = ledger or OutboxLedger()
        self._spool = spool
        self._stats = stats or Stats()
        self._client_id = client_id
        self._waiting: dict[Priority, deque[_Waiting]] = {priority: deque() for priority in ORDER}
        self._read_ahead: dict[Priority, deque[tuple[Stored, common.Message]]] = {
            priority: deque() for priority in ORDER
        }
        """From the disk, for queues that have become full meanwhile."""
        self._on_acks: dict[tuple[Priority, int], Callable[[], None]] = {}
        """Who wants to hear of messages that are on the disk only."""
        self._when_ready: list[Deferred[None]] = []
        self._when_drained: list[Deferred[None]] = []
        self._closed = False

    # ---- for whoever sends

    def open(self) -> None:
        """Open the spool, if there is one.  One that cannot be used is done without: the client must go on."""
        if self._spool is None:
            return
        try:
            self._spool.open(self)
        except OSError as error:
            self._log.critical(
                "the spool cannot be used: {error}; messages are kept in memory only, and are lost when the client "
                "is killed. See that the client may write there, and start it again",
                error=error,
            )
            self._spool = None
        else:
            self._refill()

    @property
    def spooled(self) -> bool:
        """Is a message of a service on the disk when it is accepted?"""
        return self._spool is not None

    def submit(
        self, message: common.Message, on_ack: Callable[[], None] | None = None, *, spool: bool = False
    ) -> Deferred[None]:
        """Take a message; an unknown priority becomes MEDIUM.

        @param spool: put it on the disk, if there is a spool.
        @return: fires when the queue of its priority, or the disk, has taken it, in order of submission; cancelling
            takes the message back if it was not taken yet.  Fails with OutboxClosed, or with ValueError for a message
            that no server would take, or that no spool of this size can hold.
        """
        if self._closed:
            return fail(OutboxClosed("the client is stopping"))
        size = message.ByteSize()
        if size > MAX_MESSAGE:
            return fail(ValueError(f"message of {size} bytes, only {MAX_MESSAGE} allowed"))
        if message.priority not in self._waiting:
            message.priority = common.Message.MEDIUM
        if spool and self._spool is not None:
            return self._submit_to(self._spool, message, size, on_ack)
        waiting = self._waiting[message.priority]
        if not waiting and self._ledger.accepts(message.priority):
            self._add(message, size, on_ack)
            self._tell_ready()
            return succeed(None)
        accepted: Deferred[None] = Deferred(lambda _: waiting.remove(entry))
        entry = _Waiting(message, size, on_ack, accepted)
        waiting.append(entry)
        return accepted

    def _submit_to(
        self, spool: Spool, message: common.Message, size: int, on_ack: Callable[[], None] | None
    ) -> Deferred[None]:
        accepted: Deferred[None] = Deferred(lambda _: spool.take_back(pending))
        pending = Pending(message, size, on_ack, accepted)
        if not spool.could_accept(pending):
            return fail(ValueError(f"message of {size} bytes, more than the spool has room for"))
        spool.submit(pending)
        return accepted

    def pending(self, priority: Priority) -> tuple[int, int]:
        """Messages in the queue that were not acked yet: how many, and their bytes."""
        return self._ledger.pending(priority)

    @property
    def unconfirmed(self) -> int:
        """Messages that were accepted and that the server has not confirmed, on the disk or not."""
        held = sum(self.pending(priority)[0] + len(self._read_ahead[priority]) for priority in ORDER)
        return held if self._spool is None else held + self._spool.waiting

    def close(self) -> Deferred[None]:
        """Take no more; whoever waits gets OutboxClosed.

        @return: fires when everything that was accepted is on the disk.
        """
        error = OutboxClosed("the client is stopping")
        closing, self._closed = not self._closed, True
        for waiting in self._waiting.values():
            while waiting:
                waiting.popleft().accepted.errback(error)
        if self._spool is None or not closing:
            return succeed(None)
        return Deferred.fromCoroutine(self._spool.close(error))

    # ---- for whoever embeds a client

    @property
    def flow_filter(self) -> FlowFilter:
        """Which priorities are withheld from the server; none, unless somebody sets it.  A change holds at once."""
        return self._ledger.flow_filter

    @flow_filter.setter
    def flow_filter(self, value: FlowFilter) -> None:
        self._ledger.flow_filter = value
        self._tell_ready()

    def drain(self) -> Deferred[None]:
        """The client is stopping: withhold nothing any more.  Fires when all that is held was taken."""
        self.flow_filter = FlowFilter()
        if not self._ledger.ready:
            return succeed(None)
        drained: Deferred[None] = Deferred(self._when_drained.remove)
        self._when_drained.append(drained)
        return drained

    # ---- for the communicator

    def take(self, max_count: int, max_bytes: int) -> list[Entry]:
        """As many as fit, by priority and then age; see `fleetspeak.client.link.Outbox`."""
        taken = self._ledger.take(max_count, max_bytes)
        if self._client_id is not None:
            client_id = self._client_id()
            for entry in taken:
                source = entry.message.source
                if source.client_id and source.client_id != client_id:
                    source.client_id = client_id
        if self._when_drained and not self._ledger.ready:
            waiting, self._when_drained = self._when_drained, []
            for drained in waiting:
                drained.callback(None)
        return taken

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
        if self._spool is not None:
            self._spool.acked(entry.stored for entry in entries if entry.stored is not None)
        for entry in entries:
            self._stats.message_acknowledged(entry.message, entry.size)
            if entry.on_ack is not None:
                try:
                    entry.on_ack()
                except Exception:
                    self._log.failure("the callback of an acknowledged message failed")
        self._admit()

    def nack(self, entries: Sequence[Entry]) -> None:
        """They come again."""
        self._ledger.nack(entries)
        for entry in entries:
            self._stats.message_retried(entry.message)
        self._tell_ready()

    # ---- for the spool

    def written(self, pending: Pending, stored: Stored, idle: bool) -> None:
        """See `SpoolOwner`."""
        assert self._spool is not None
        if pending.taken_back:
            self._spool.forget(stored)
            return
        self._stats.message_pending(pending.message, pending.size)
        if idle and not self._read_ahead[stored.priority] and self._ledger.accepts(stored.priority):
            self._spool.keep(stored)
            self._ledger.add(pending.message, pending.size, pending.on_ack, stored)
        elif pending.on_ack is not None:
            self._on_acks[stored.priority, stored.number] = pending.on_ack
        pending.accepted.callback(None)

    def written_all(self) -> None:
        """See `SpoolOwner`."""
        self._admit()
        self._tell_ready()

    def read_back(self, priority: Priority, messages: Sequence[tuple[Stored, common.Message]]) -> None:
        """See `SpoolOwner`."""
        self._read_ahead[priority].extend(messages)
        self._refill()

    # ---- how

    def _add(self, message: common.Message, size: int, on_ack: Callable[[], None] | None) -> None:
        self._ledger.add(message, size, on_ack)
        self._stats.message_pending(message, size)

    def _admit(self) -> None:
        """Move in whoever waited for the room there is now; before what is on the disk, because it is in no hurry."""
        admitted = False
        for priority, waiting in self._waiting.items():
            while waiting and self._ledger.accepts(priority):
                entry = waiting.popleft()
                self._add(entry.message, entry.size, entry.on_ack)
                admitted = True
                entry.accepted.callback(None)
        self._refill()
        if admitted:
            self._tell_ready()

    def _refill(self) -> None:
        """Fill the queues from the disk."""
        if self._spool is None:
            return
        for priority, ahead in self._read_ahead.items():
            while ahead and self._ledger.accepts(priority):
                stored, message = ahead.popleft()
                on_ack = self._on_acks.pop((priority, stored.number), None)
                self._ledger.add(message, stored.size, on_ack, stored)
                if self._spool.is_recovered(stored):
                    self._stats.message_pending(message, stored.size)
            if not ahead and self._ledger.accepts(priority) and self._spool.has_more(priority):
                self._spool.read(priority, MAX_PENDING_COUNT - self._ledger.pending(priority)[0])
        self._tell_ready()

    def _tell_ready(self) -> None:
        if self._when_ready and self._ledger.ready:
            listeners, self._when_ready = self._when_ready, []
            for ready in listeners:
                ready.callback(None)
