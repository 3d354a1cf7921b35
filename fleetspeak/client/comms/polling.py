"""The polling communicator: asks the server again and again, fast while there is something going on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse
from zope.interface import implementer

from fleetspeak.client.comms.bodies import WholeBody, read_body
from fleetspeak.client.comms.http import MAX_REFUSAL, SUCCESS, Transport, reason_of
from fleetspeak.client.comms.servers import Server, ServerList
from fleetspeak.client.comms.waiting import Bell, Waiters, first_of, sleep
from fleetspeak.client.link import Link
from fleetspeak.config.client import ClientSettings
from fleetspeak.core.backoff import jittered
from fleetspeak.core.loneliness import Loneliness
from fleetspeak.core.outbox import Entry
from fleetspeak.core.pollschedule import MAX_BYTES, MAX_COUNT, PollSchedule
from fleetspeak.errors import ProtocolError
from fleetspeak.interfaces import ICommunicator
from fleetspeak.pb import common
from fleetspeak.program.ending import TOO_LONELY
from fleetspeak.wire import compression, contact
from fleetspeak.wire.streamframes import MAX_SERVER_RECORD

POLL_TIMEOUT = 300.0
"""Seconds for one request; upstream's."""

FAREWELL = 5.0
"""Seconds to deliver what is left when the client stops."""


@implementer(ICommunicator)
class PollingCommunicator:
    """One poll at a time; between them it holds what is to be sent.

    What was held is acked when a server's answer was taken in, and nacked when no server gave one.
    """

    _log = Logger()

    def __init__(
        self, link: Link, settings: ClientSettings, reactor: Any, uniform: Callable[[], float] = random.random
    ) -> None:
        config = settings.communicator
        self._link = link
        self._settings = settings
        self._reactor = reactor
        self._uniform = uniform
        self._servers = ServerList(settings.servers)
        self._schedule = PollSchedule(config.max_poll_delay_seconds, config.max_buffer_delay_seconds)
        self._loneliness = Loneliness(config.failure_suicide_time_seconds, reactor.seconds())
        self._transport = Transport(link, settings, reactor)
        self._held: list[Entry] = []
        self._poll_now = False
        self._stopping = False
        self._interrupted = False
        self._wake = Bell()
        self._asking: Deferred[common.ContactData] | None = None
        self._running: Deferred[None] | None = None
        self._flushes = Waiters()

    def start(self) -> None:
        """See `ICommunicator`."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._stopped)

    async def stop(self) -> None:
        """See `ICommunicator`."""
        self._stopping = True
        if self._running is not None:
            self._interrupted = True
            self._running.cancel()
            await self._running
            await self._farewell()
        self._flushes.release()
        await self._transport.close()

    def reset(self) -> None:
        """See `ICommunicator`.  May be called from within `Link.received`, too."""
        self._poll_now = True
        if self._asking is None:
            self._wake.ring()
        else:
            self._interrupt()

    def servers(self) -> Sequence[Server]:
        """See `ICommunicator`."""
        return self._servers.order()

    def get(self, server: Server, path: str, headers: Sequence[tuple[str, str]]) -> Deferred[IResponse]:
        """See `ICommunicator`."""
        return self._transport.get(server, path, headers)

    def flush(self) -> Deferred[None]:
        """See `ICommunicator`: fires at the end of the next poll, or of the one that is going on."""
        return self._flushes.wait()

    async def _run(self) -> None:
        while not self._stopping:
            await self._until_due()
            self._poll_now = self._interrupted = False
            if not await self._poll() and not self._stopping:
                await self._after_failure()

    async def _farewell(self) -> None:
        """Deliver what is left, unless that takes too long."""
        self._interrupted = False
        limit = self._reactor.callLater(FAREWELL, self._interrupt)
        self._hold()
        while self._held and await self._poll():
            self._hold()
        if limit.active():
            limit.cancel()
        if self._interrupted:
            self._log.warn("what was left could not be delivered within {seconds} s", seconds=FAREWELL)

    def _interrupt(self) -> None:
        self._interrupted = True
        if self._asking is not None:
            self._asking.cancel()

    async def _until_due(self) -> None:
        """Wait for the time of the next poll; whatever turns up meanwhile is held, and may bring it forward."""
        while True:
            self._hold()
            wait = self._schedule.due - self._reactor.seconds()
            if wait <= 0 or self._poll_now:
                return
            waits = [sleep(self._reactor, wait), self._wake.wait()]
            if len(self._held) < MAX_COUNT:
                waits.append(self._link.outbox.when_ready())
            await first_of(waits)

    def _hold(self) -> None:
        size = sum(entry.size for entry in self._held)
        if len(self._held) < MAX_COUNT and size < MAX_BYTES:
            self._held += self._link.outbox.take(MAX_COUNT - len(self._held), MAX_BYTES - size)
            size = sum(entry.size for entry in self._held)
        self._schedule.holding(self._reactor.seconds(), len(self._held), size, self._uniform())

    async def _poll(self) -> bool:
        """Poll.  True if a server answered; otherwise what was held is in the outbox again."""
        if self._transport.is_stale:
            old, self._transport = self._transport, Transport(self._link, self._settings, self._reactor)
            await old.close()
            self._servers = ServerList(self._settings.servers)
        entries, self._held = self._held, []
        answer: common.ContactData | None = None
        try:
            answer = await self._first_answer(self._body(entries))
        finally:
            if answer is None:
                self._link.outbox.nack(entries)
                self._flushes.release()
        if answer is None:
            return False
        self._take(answer, entries)
        self._flushes.release()
        return True

    def _body(self, entries: Sequence[Entry]) -> bytes:
        body = self._link.contact([entry.message for entry in entries], first=True)
        if self._settings.communicator.compression == common.COMPRESSION_DEFLATE:
            return compression.compress(body)
        return body

    async def _first_answer(self, body: bytes) -> common.ContactData | None:
        """What the first server says that gives an answer; None if none does, or it was interrupted."""
        for server in self._servers.to_try(self._reactor.seconds()):
            self._asking = Deferred.fromCoroutine(self._ask(server, body))
            self._asking.addTimeout(POLL_TIMEOUT, self._reactor)
            try:
                answer = await self._asking
            except Exception as error:  # of whatever kind: Twisted has many for what was cancelled
                if self._interrupted:
                    return None
                self._log.warn("no contact with {server}: {reason}", server=server, reason=reason_of(error))
            else:
                self._servers.worked(server, self._reactor.seconds(), self._uniform())
                self._link.contacted(str(server))
                return answer
            finally:
                self._asking = None
        return None

    async def _ask(self, server: Server, body: bytes) -> common.ContactData:
        self._link.attempting(str(server))
        try:
            response = await self._transport.post(server, "/message", WholeBody(body))
        except Exception as error:
            self._link.stats.contact_sent(str(server), len(body), error)
            raise
        self._link.stats.contact_sent(str(server), len(body), None)
        answer = b""
        try:
            answer = await read_body(response, MAX_SERVER_RECORD)
            taken = _answer(response.code, answer)
        except Exception as error:
            self._link.stats.contact_received(str(server), len(answer), error)
            raise
        self._link.stats.contact_received(str(server), len(answer), None)
        return taken

    def _take(self, answer: common.ContactData, entries: Sequence[Entry]) -> None:
        now = self._reactor.seconds()
        active = bool(answer.messages) or any(not entry.message.background for entry in entries)
        self._schedule.succeeded(now, active=active, u=self._uniform())
        self._loneliness.contacted(now)
        self._link.received(answer, first=True)
        self._link.outbox.ack(entries)

    async def _after_failure(self) -> None:
        if (reason := self._loneliness.verdict(self._reactor.seconds())) is not None:
            self._link.give_up(reason, TOO_LONELY)
        if not self._poll_now:
            delay = jittered(self._settings.communicator.min_failure_delay_seconds, self._uniform())
            await first_of([sleep(self._reactor, delay), self._wake.wait()])

    def _stopped(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # type: ignore[no-untyped-call]
            self._log.failure("the polling communicator stopped working", failure)
            self._link.give_up("the communicator failed", 1)


def _answer(status: int, body: bytes) -> common.ContactData:
    if status != SUCCESS:
        raise ProtocolError(f"status {status}: {body[:MAX_REFUSAL].decode('utf-8', 'replace').strip()}")
    return contact.parse(body)
