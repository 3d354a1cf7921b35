"""The backlog: messages for server services that could not be processed when they came."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fleetspeak import ids
from fleetspeak.core.clearance import Clearance
from fleetspeak.errors import NotReady, StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.program.awaiting import when_done
from fleetspeak.program.nap import Nap
from fleetspeak.records import MAX_MESSAGES_PER_CONTACT, NO_LIMITS, ClientData, ResultUpdate, RetryLimits
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.stats import NO_STATS, ServerStats

BATCH = MAX_MESSAGES_PER_CONTACT
"""Most messages claimed at a time: what a service that takes lists may be given in one."""

HAND_MESSAGES = 10 * BATCH
HAND_BYTES = 32 * 1024 * 1024
"""Messages of one service, and bytes of their payloads, from which on the backlog takes no more of it in hand."""

SAFETY_NET = 5.0
"""Most seconds between two looks: other servers, and failures of our own, make messages due without a word."""

LEAST_PAUSE = 0.05
"""Least seconds between two looks of which the first found nothing."""

CROWDED_PAUSE = 1.0
"""Seconds between two looks while a service has no room, unless it has some before; a few places are room too."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds of back-off after the first, and at most after any, failure of the store in a row."""

LOG_INTERVAL = 10.0
"""Least seconds between two lines about dead letters."""

log = Logger()


@dataclass(slots=True)
class _Hand:
    """What the backlog holds of one service: claimed, and without a result that is written."""

    messages: int = 0
    size: int = 0


class Backlog:
    """Claims overdue messages, has them processed, and writes back their results.

    A service gets no more than it has room for, and what it gets is processed beside that of others: one that is slow,
    or has much to do, holds up nobody else.  A look follows as soon as it has room again.

    What cannot be processed, or whose result cannot be written, becomes due again by the store's retry times, until the
    limits make it a dead letter.
    """

    def __init__(
        self,
        store: IStore,
        manager: ServiceManager,
        reactor: Any,
        now_ns: Callable[[], int],
        uniform: Callable[[], float] = random.random,
        *,
        limits: RetryLimits = NO_LIMITS,
        stats: ServerStats = NO_STATS,
    ) -> None:
        """
        @param uniform: gives random numbers in [0, 1), which keep servers of one database out of step.
        @param limits: how long messages are tried.
        """
        self._store = store
        self._manager = manager
        self._reactor = reactor
        self._now_ns = now_ns
        self._uniform = uniform
        self._limits = limits
        self._stats = stats
        self._hands: dict[str, _Hand] = {}
        self._work: set[Deferred[None]] = set()
        self._loop: Deferred[None] | None = None
        self._nap = Nap(reactor)
        self._woken = False
        self._going = False
        self._crowded = False
        self._clearance = Clearance()
        self._failures = 0
        self._expired = SparseLog(reactor, LOG_INTERVAL)

    def start(self) -> None:
        """Begin to look for overdue messages."""
        self._going = True
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(lambda failure: log.failure("the backlog has ended", failure=failure))

    async def stop(self) -> None:
        """Claim no more, and wait for what is being processed."""
        self._going = False
        self.wake()
        if self._loop is not None:
            await self._loop
            self._loop = None
        while self._work:
            await when_done(next(iter(self._work)))

    def wake(self) -> None:
        """A message for a server service is due, or will be, or a service has room: look again."""
        self._woken = True
        self._nap.wake()

    # -- looking

    async def _run(self) -> None:
        while self._going:
            self._woken = False
            try:
                pause = await self._look()
                self._failures = 0
            except StoreError as error:
                pause = self._back_off()
                log.error(
                    "cannot look for overdue messages: {error}; next try in {pause:.1f} s", error=error, pause=pause
                )
            if pause > 0 and self._going and not self._woken:
                await self._nap.sleep(pause)

    async def _look(self) -> float:
        """Claim what there is room for, and start on it.  Returns seconds until the next look."""
        room = self._room()
        full = {service for service, places in room.items() if not places}
        self._crowded = bool(full)
        messages = await self._claim(room, full)
        if messages:
            await self._take_up(messages)
            return 0.0
        return CROWDED_PAUSE if full else await self._until_next()

    async def _claim(self, room: dict[str, int], full: set[str]) -> list[common.Message]:
        began, began_ns = self._reactor.seconds(), self._now_ns()
        since_ns = self._clearance.since(full, began)
        messages = await self._store.overdue_messages(BATCH, room, self._limits, since_ns)
        now = self._reactor.seconds()
        self._clearance.note(full, since_ns, began_ns, now, now - began, bool(messages))
        return messages

    def _room(self) -> dict[str, int]:
        """How many messages each service may be given."""
        room = self._manager.room({name: hand.messages for name, hand in self._hands.items()}, self.wake)
        for name, hand in self._hands.items():
            if name in room:
                left = HAND_MESSAGES - hand.messages if hand.size < HAND_BYTES else 0
                room[name] = max(min(room[name], left), 0)
        return room

    async def _until_next(self) -> float:
        """Seconds until the next message is due, as far as we know."""
        due = await self._store.next_overdue()
        if due is None:
            return SAFETY_NET
        seconds = (due - self._now_ns()) / 1e9
        return min(max(seconds, LEAST_PAUSE), SAFETY_NET)

    def _back_off(self) -> float:
        limit: float = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 10)
        return limit * (1 + self._uniform()) / 2

    # -- processing

    async def _take_up(self, messages: Sequence[common.Message]) -> None:
        """Start on messages, those of each service beside those of the others."""
        clients = await self._senders(messages)
        groups: dict[str, list[common.Message]] = {}
        for message in messages:
            if message.HasField("result"):
                self._bury(message, clients.get(ClientId(message.source.client_id)))
            else:
                groups.setdefault(message.destination.service_name, []).append(message)
        for service, group in groups.items():
            self._begin(service, group, clients)

    def _begin(self, service: str, group: list[common.Message], clients: dict[ClientId, ClientData]) -> None:
        count, size = len(group), sum(len(message.data.value) for message in group)
        hand = self._hands.setdefault(service, _Hand())
        hand.messages += count
        hand.size += size
        work = Deferred.fromCoroutine(self._process(group, clients))
        work.addErrback(lambda failure: log.failure("overdue messages have failed", failure=failure))
        self._work.add(work)
        work.addBoth(lambda _: self._put_down(service, count, size, work))

    def _put_down(self, service: str, count: int, size: int, work: Deferred[None]) -> None:
        self._work.discard(work)
        hand = self._hands[service]
        hand.messages -= count
        hand.size -= size
        if not hand.messages:
            del self._hands[service]
        if self._crowded:
            self.wake()

    async def _process(self, messages: list[common.Message], clients: dict[ClientId, ClientData]) -> None:
        for message in messages:
            client = clients.get(ClientId(message.source.client_id))
            message.is_blocklisted_source = client is not None and client.blacklisted
        try:
            await self._manager.run(messages, False, lambda one: clients.get(ClientId(one.source.client_id)))
            done = results(messages)
            if done:
                await self._store.set_message_results(done)
        except NotReady:
            return  # stopping; the messages come again
        except StoreError as error:
            log.error(
                "cannot write the results of {count} overdue messages, they will be processed again: {error}",
                count=len(messages),
                error=error,
            )

    async def _senders(self, messages: Sequence[common.Message]) -> dict[ClientId, ClientData]:
        """From the store and not the cache: a blacklisting must be seen here at once."""
        client_ids = {ClientId(message.source.client_id) for message in messages} - {b""}
        if not client_ids:
            return {}
        try:
            return await self._store.client_data(sorted(client_ids))
        except StoreError as error:
            log.warn("cannot look up who sent overdue messages: {error}", error=error)
            return {}

    def _bury(self, message: common.Message, client: ClientData | None) -> None:
        """Tell of a message that has become a dead letter."""
        service = message.destination.service_name
        self._stats.message_errored(message, service, 0.0, False, False, client)
        if self._expired.due():
            log.error(
                'message {message_id} to service "{name}" is a dead letter now: {reason} ({more} more since the last '
                "line)",
                message_id=ids.show(ids.message_id(message.message_id)),
                name=service,
                reason=message.result.failed_reason,
                more=self._expired.take_held_back(),
            )


def results(messages: Sequence[common.Message]) -> list[ResultUpdate]:
    """The results that processing has attached to messages for server services."""
    return [
        ResultUpdate(MessageId(message.message_id), message.result)
        for message in messages
        if message.HasField("result")
    ]
