"""The streaming communicator: one stream after the other, for as long as the client lives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.client.comms.http import TOO_LONELY, Transport, reason_of
from fleetspeak.client.comms.servers import Server, ServerList
from fleetspeak.client.comms.session import Session
from fleetspeak.client.comms.waiting import Bell, first_of, sleep
from fleetspeak.client.link import Link
from fleetspeak.config.client import ClientSettings
from fleetspeak.core.backoff import full_jitter, jittered
from fleetspeak.core.loneliness import Loneliness
from fleetspeak.interfaces import ICommunicator
from fleetspeak.pb import common

LIFE = 720.0
"""Seconds that a stream lives at most; the server normally ends it after ten minutes."""

FAREWELL = 5.0
"""Seconds to deliver what is left when the client stops."""

SHORT = 10.0
"""A stream that ended sooner, unannounced, counts as a failure of its server."""

RETRY_BASE = 1.0
"""Seconds; doubled for each short stream in a row, as the most to wait before the next one."""


@implementer(ICommunicator)
class StreamingCommunicator:
    """Keeps a stream open, to the server that worked last if it can be had."""

    _log = Logger()

    def __init__(
        self, link: Link, settings: ClientSettings, reactor: Any, uniform: Callable[[], float] = random.random
    ) -> None:
        self._link = link
        self._settings = settings
        self._reactor = reactor
        self._uniform = uniform
        self._servers = ServerList(settings.servers)
        self._loneliness = Loneliness(settings.communicator.failure_suicide_time_seconds, reactor.seconds())
        self._transport = Transport(link, settings, reactor)
        self._deflate = settings.communicator.compression == common.COMPRESSION_DEFLATE
        self._wake = Bell()
        self._opening: Deferred[None] | None = None
        self._session: Session | None = None
        self._running: Deferred[None] | None = None
        self._stopping = False
        self._short_streams = 0

    def start(self) -> None:
        """See `ICommunicator`."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._stopped)

    async def stop(self) -> None:
        """See `ICommunicator`."""
        self._stopping = True
        session = self._session
        if session is not None:
            session.flush()
            try:
                await session.ended.addTimeout(FAREWELL, self._reactor)
            except TimeoutError:
                self._log.warn("what was left could not be delivered within {seconds} s", seconds=FAREWELL)
                session.abort()
        if self._running is not None:
            self._running.cancel()

    def reset(self) -> None:
        """See `ICommunicator`."""
        self._short_streams = 0
        opening, session = self._opening, self._session  # ringing may begin the next ones at once
        self._wake.ring()
        if opening is not None:
            opening.cancel()
        if session is not None:
            session.abort()

    async def _run(self) -> None:
        while not self._stopping:
            if self._transport.is_stale:
                self._transport = Transport(self._link, self._settings, self._reactor)
            session = await self._connect()
            if session is None:
                await self._after_failure()
            else:
                await self._live(session)

    async def _connect(self) -> Session | None:
        """A stream to the first server that gives one; None if none does."""
        for server in self._servers.order():
            session = Session(self._link, self._reactor, deflate=self._deflate)
            self._opening = Deferred.fromCoroutine(session.open(self._transport, server))
            try:
                await self._opening
            except CancelledError:
                return None
            except Exception as error:
                self._log.warn("no stream to {server}: {reason}", server=server, reason=reason_of(error))
            else:
                self._connected(server)
                return session
            finally:
                self._opening = None
        return None

    def _connected(self, server: Server) -> None:
        self._servers.worked(server)
        self._loneliness.contacted(self._reactor.seconds())
        self._link.contacted(str(server))

    async def _live(self, session: Session) -> None:
        """From the start of a stream to its end, and until the next one may begin."""
        began = self._reactor.seconds()
        self._session = session
        end_of_life = self._reactor.callLater(LIFE, session.abort)
        ended: Deferred[None] = Deferred()
        session.ended.addCallback(lambda _: ended.callback(None))
        try:
            await ended
        finally:
            self._session = None
            if end_of_life.active():
                end_of_life.cancel()
        now = self._reactor.seconds()
        self._loneliness.contacted(now)
        if session.orderly or now - began >= SHORT:
            self._short_streams = 0
        elif not self._stopping and not self._transport.is_stale:
            await self._hold_back()

    async def _hold_back(self) -> None:
        """A server that takes streams and drops them is not hammered."""
        most = self._settings.communicator.min_failure_delay_seconds
        delay = full_jitter(RETRY_BASE, most, self._short_streams, self._uniform())
        self._short_streams += 1
        await first_of([sleep(self._reactor, delay), self._wake.wait()])

    async def _after_failure(self) -> None:
        if (reason := self._loneliness.verdict(self._reactor.seconds())) is not None:
            self._link.give_up(reason, TOO_LONELY)
        if not self._stopping:
            delay = jittered(self._settings.communicator.min_failure_delay_seconds, self._uniform())
            await first_of([sleep(self._reactor, delay), self._wake.wait()])

    def _stopped(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # type: ignore[no-untyped-call]
            self._log.failure("the streaming communicator stopped working", failure)
            self._link.give_up("the communicator failed", 1)
