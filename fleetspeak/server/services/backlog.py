"""The backlog: messages for server services that could not be processed when they came."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger

from fleetspeak.errors import NotReady, StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.records import ClientData, ResultUpdate
from fleetspeak.server.services.manager import ServiceManager

BATCH = 50
"""Most messages claimed at a time."""

PARALLEL_BATCHES = 4
"""Batches processed side by side, so that one slow service does not hold up the others."""

SAFETY_NET = 5.0
"""Most seconds between two looks: other servers, and failures of our own, make messages due without a word."""

LEAST_PAUSE = 0.05
"""Least seconds between two looks of which the first found nothing."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds of back-off after the first, and at most after any, failure of the store in a row."""

log = Logger()


class Backlog:
    """Claims overdue messages, has them processed, and writes back their results.

    What cannot be processed, or whose result cannot be written, becomes due again by the store's retry times.
    """

    def __init__(
        self,
        store: IStore,
        manager: ServiceManager,
        reactor: Any,
        now_ns: Callable[[], int],
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """`uniform` gives random numbers in [0, 1), which keep servers of one database out of step."""
        self._store = store
        self._manager = manager
        self._reactor = reactor
        self._now_ns = now_ns
        self._uniform = uniform
        self._slots = DeferredSemaphore(PARALLEL_BATCHES)
        self._loop: Deferred[None] | None = None
        self._sleep: Deferred[None] | None = None
        self._woken = False
        self._going = False
        self._failures = 0

    def start(self) -> None:
        """Begin to look for overdue messages."""
        self._going = True
        self._loop = Deferred.fromCoroutine(self._run())
        self._loop.addErrback(lambda failure: log.failure("the backlog has ended", failure=failure))

    async def stop(self) -> None:
        """Claim no more, and wait for the batches that are being processed."""
        self._going = False
        self.wake()
        if self._loop is not None:
            await self._loop
            self._loop = None
        for _ in range(PARALLEL_BATCHES):
            await self._slots.acquire()
        for _ in range(PARALLEL_BATCHES):
            self._slots.release()

    def wake(self) -> None:
        """A message for a server service has been stored: look again when the next one is due."""
        self._woken = True
        if self._sleep is not None:
            sleep, self._sleep = self._sleep, None
            sleep.callback(None)

    async def _run(self) -> None:
        while self._going:
            self._woken = False
            try:
                pause = 0.0 if await self._take_batch() else await self._until_next()
                self._failures = 0
            except StoreError as error:
                pause = self._back_off()
                log.error(
                    "cannot look for overdue messages: {error}; next try in {pause:.1f} s", error=error, pause=pause
                )
            if pause > 0 and self._going:
                await self._pause(pause)

    async def _take_batch(self) -> bool:
        """Claim one batch, once there is a free slot, and start on it.  True: there may be more."""
        await self._slots.acquire()
        messages: list[common.Message] = []
        try:
            if self._going:
                messages = await self._store.overdue_messages(BATCH)
        finally:
            if not messages:
                self._slots.release()
        if messages:
            batch = Deferred.fromCoroutine(self._process(messages))
            batch.addErrback(lambda failure: log.failure("a batch of overdue messages has failed", failure=failure))
            batch.addBoth(lambda _: self._slots.release())
        return len(messages) >= BATCH

    async def _process(self, messages: list[common.Message]) -> None:
        try:
            clients = await self._senders(messages)
            for message in messages:
                client = clients.get(ClientId(message.source.client_id))
                message.is_blocklisted_source = client is not None and client.blacklisted
            await self._manager.run(messages, False, lambda one: clients.get(ClientId(one.source.client_id)))
            await self._store.set_message_results(results(messages))
        except NotReady:
            return  # stopping; the messages come again
        except StoreError as error:
            log.error(
                "cannot write the results of {count} overdue messages, they will be processed again: {error}",
                count=len(messages),
                error=error,
            )

    async def _senders(self, messages: list[common.Message]) -> dict[ClientId, ClientData]:
        """From the store and not the cache: a blacklisting must be seen here at once."""
        client_ids = {ClientId(message.source.client_id) for message in messages} - {b""}
        if not client_ids:
            return {}
        try:
            return await self._store.client_data(sorted(client_ids))
        except StoreError as error:
            log.warn("cannot look up who sent overdue messages: {error}", error=error)
            return {}

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

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless somebody has called `wake` since the last look."""
        if self._woken:
            return
        self._sleep = Deferred()
        timer = self._reactor.callLater(seconds, self.wake)
        try:
            await self._sleep
        finally:
            if timer.active():
                timer.cancel()


def results(messages: list[common.Message]) -> list[ResultUpdate]:
    """The results that processing has attached to messages for server services."""
    return [
        ResultUpdate(MessageId(message.message_id), message.result)
        for message in messages
        if message.HasField("result")
    ]
