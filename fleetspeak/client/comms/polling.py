"""The polling communicator: asks the server again and again, fast while there is something going on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.client.comms.bodies import WholeBody, read_body
from fleetspeak.client.comms.http import SUCCESS, TOO_LONELY, Transport, reason_of
from fleetspeak.client.comms.servers import Server, ServerList
from fleetspeak.client.comms.waiting import Bell, first_of, sleep
from fleetspeak.client.link import Link
from fleetspeak.config.client import ClientSettings
from fleetspeak.core.backoff import jittered
from fleetspeak.core.loneliness import Loneliness
from fleetspeak.core.outbox import Entry
from fleetspeak.core.pollschedule import MAX_BYTES, MAX_COUNT, PollSchedule
from fleetspeak.errors import ProtocolError
from fleetspeak.interfaces import ICommunicator
from fleetspeak.pb import common
from fleetspeak.wire import compression, contact
from fleetspeak.wire.streamframes import MAX_SERVER_RECORD

POLL_TIMEOUT = 300.0
"""Seconds for one request; upstream's."""

FAREWELL = 5.0
"""Seconds to deliver what is left when the client stops."""


@implementer(ICommunicator)
class PollingCommunicator:
    """One poll at a time; between them it holds what is to be sent.

    What is held is acked when a server's answer was taken in, and nacked when no server gave one.
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
        self._wake = Bell()
        self._in_flight: Deferred[bool] | None = None
        self._running: Deferred[None] | None = None

    def start(self) -> None:
        """See `ICommunicator`."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._stopped)

    async def stop(self) -> None:
        """See `ICommunicator`."""
        self._stopping = True
        if self._running is not None:
            self._running.cancel()
            self._running = None
        self._hold()
        if self._held:
            await self._poll_within(FAREWELL)
        await self._transport.close()

    def reset(self) -> None:
        """See `ICommunicator`."""
        self._poll_now = True
        in_flight = self._in_flight  # ringing may begin the next one at once, which is not to be cancelled
        self._wake.ring()
        if in_flight is not None:
            in_flight.cancel()

    async def _run(self) -> None:
        while not self._stopping:
            await self._until_due()
            self._poll_now = False
            if not await self._poll_within(POLL_TIMEOUT * len(self._servers.order())):
                await self._after_failure()

    async def _until_due(self) -> None:
        """Wait for the time of the next poll; whatever turns up meanwhile is held, and may bring it forward."""
        while True:
            self._hold()
            now = self._reactor.seconds()
            wait = self._schedule.due - now
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

    async def _poll_within(self, seconds: float) -> bool:
        """Poll.  True if a server answered; otherwise what was held goes back to the outbox."""
        self._in_flight = Deferred.fromCoroutine(self._poll())
        self._in_flight.addTimeout(seconds, self._reactor)
        try:
            return await self._in_flight
        except (CancelledError, TimeoutError):
            return False  # by a reset, because the client stops, or because it took too long
        except Exception:
            self._log.failure("a poll failed in a way that was not foreseen")
            return False
        finally:
            self._in_flight = None
            self._link.outbox.nack(self._held)
            self._held = []

    async def _poll(self) -> bool:
        if self._transport.is_stale:
            await self._transport.close()
            self._transport = Transport(self._link, self._settings, self._reactor)
        body = self._link.contact([entry.message for entry in self._held], first=True)
        if self._settings.communicator.compression == common.COMPRESSION_DEFLATE:
            body = compression.compress(body)
        for server in self._servers.order():
            try:
                answer = await self._ask(server, body)
            except CancelledError:
                raise
            except Exception as error:
                self._log.warn("no contact with {server}: {reason}", server=server, reason=reason_of(error))
            else:
                self._succeeded(server, answer)
                return True
        return False

    async def _ask(self, server: Server, body: bytes) -> common.ContactData:
        response = await self._transport.post(server, "/message", WholeBody(body)).addTimeout(
            POLL_TIMEOUT, self._reactor
        )
        answer = await read_body(response, MAX_SERVER_RECORD).addTimeout(POLL_TIMEOUT, self._reactor)
        if response.code != SUCCESS:
            raise ProtocolError(f"status {response.code}: {answer[:200].decode('utf-8', 'replace').strip()}")
        return contact.parse(answer)

    def _succeeded(self, server: Server, answer: common.ContactData) -> None:
        now = self._reactor.seconds()
        active = bool(answer.messages) or any(not entry.message.background for entry in self._held)
        self._servers.worked(server)
        self._schedule.succeeded(now, active=active, u=self._uniform())
        self._loneliness.contacted(now)
        self._link.contacted(str(server))
        self._link.received(answer, first=True)
        held, self._held = self._held, []
        self._link.outbox.ack(held)

    async def _after_failure(self) -> None:
        if (reason := self._loneliness.verdict(self._reactor.seconds())) is not None:
            self._link.give_up(reason, TOO_LONELY)
        delay = jittered(self._settings.communicator.min_failure_delay_seconds, self._uniform())
        if not self._poll_now and not self._stopping:
            await first_of([sleep(self._reactor, delay), self._wake.wait()])

    def _stopped(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the polling communicator stopped working", failure)
            self._link.give_up("the communicator failed", 1)
