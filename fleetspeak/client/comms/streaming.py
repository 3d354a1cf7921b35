"""The streaming communicator: one stream after the other, for as long as the client lives."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse
from zope.interface import implementer

from fleetspeak.client.comms.http import Transport, reason_of
from fleetspeak.client.comms.servers import Server, ServerList
from fleetspeak.client.comms.session import Session
from fleetspeak.client.comms.waiting import Bell, Waiters, first_of, sleep
from fleetspeak.client.link import Link
from fleetspeak.config.client import ClientSettings
from fleetspeak.core.loneliness import Loneliness
from fleetspeak.core.reconnects import Reconnects
from fleetspeak.interfaces import ICommunicator
from fleetspeak.pb import common
from fleetspeak.program.ending import TOO_LONELY

LIFE = 720.0
"""Seconds that a stream lives at most; the server normally ends it after ten minutes."""

FAREWELL = 5.0
"""Seconds to deliver what is left when the client stops."""

START_TIMEOUT = 180.0
"""Seconds until the server's first record is there; the server gives itself as many."""


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
        self._attempt_over = Bell()
        self._attempt: Session | None = None
        self._opening: Deferred[None] | None = None
        self._session: Session | None = None
        self._running: Deferred[None] | None = None
        self._reset = False
        self._stopping = False
        self._reconnects = Reconnects(settings.communicator.min_failure_delay_seconds, LIFE)
        self._flushes = Waiters()

    def start(self) -> None:
        """See `ICommunicator`."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._stopped)

    async def stop(self) -> None:
        """See `ICommunicator`."""
        self._stopping = True
        if self._running is not None:
            await self._end(self._running)
        await self._transport.close()

    async def _end(self, running: Deferred[None]) -> None:
        try:
            await Deferred.fromCoroutine(self._farewell()).addTimeout(FAREWELL, self._reactor)
        except TimeoutError:
            self._log.warn("what was left could not be delivered within {seconds} s", seconds=FAREWELL)
        self._interrupt()
        running.cancel()
        await running
        self._flushes.release()

    def reset(self) -> None:
        """See `ICommunicator`.  May be called from within `Link.received`, too."""
        self._reset = True
        self._reconnects.forgive()
        if not self._interrupt():
            self._wake.ring()

    def servers(self) -> Sequence[Server]:
        """See `ICommunicator`."""
        return self._servers.order()

    def get(self, server: Server, path: str, headers: Sequence[tuple[str, str]]) -> Deferred[IResponse]:
        """See `ICommunicator`."""
        return self._transport.get(server, path, headers)

    def flush(self) -> Deferred[None]:
        """See `ICommunicator`: fires when a stream is alive and all is sent and acknowledged."""
        flushed = self._flushes.wait()
        self._settled()
        return flushed

    def _settled(self) -> None:
        if self._flushes.any and self._session is not None and self._session.is_settled:
            self._flushes.release()

    async def _run(self) -> None:
        while not self._stopping:
            self._reset = False
            if self._transport.is_stale:
                old, self._transport = self._transport, Transport(self._link, self._settings, self._reactor)
                await old.close()
                self._servers = ServerList(self._settings.servers)
            session = await self._connect()
            if session is not None:
                await self._live(session)
            elif not (self._reset or self._stopping):
                await self._after_failure()

    async def _farewell(self) -> None:
        """Deliver what is left, if there is a stream for it or one is being opened."""
        if self._opening is not None and self._has_left():
            await self._attempt_over.wait()
        session = self._session
        if session is not None:
            session.flush()
            await session.when_ended()

    def _has_left(self) -> bool:
        """Is there anything to deliver, in the record that opens the stream or behind it?"""
        ready = self._link.outbox.when_ready()
        is_ready = ready.called
        ready.addErrback(lambda _: None).cancel()
        return is_ready or (self._attempt is not None and self._attempt.is_loaded)

    def _interrupt(self) -> bool:
        """End what is being opened or is open.  False: there is nothing."""
        if self._opening is not None:
            self._opening.cancel()
        elif self._session is not None:
            self._session.abort()
        else:
            return False
        return True

    async def _connect(self) -> Session | None:
        """A stream to the first server that gives one; None if none does, or a reset came between."""
        try:
            for server in self._servers.to_try(self._reactor.seconds()):
                session = Session(self._link, self._reactor, deflate=self._deflate, on_record=self._settled)
                if await self._open(session, server):
                    self._session = session
                    self._settled()
                    return session
                if self._reset or self._stopping:
                    break
            return None
        finally:
            if self._stopping:
                self._attempt_over.ring()

    async def _open(self, session: Session, server: Server) -> bool:
        self._attempt = session
        self._link.attempting(str(server))
        self._opening = Deferred.fromCoroutine(session.open(self._transport, server))
        self._opening.addTimeout(START_TIMEOUT, self._reactor)
        try:
            await self._opening
        except Exception as error:  # of whatever kind: Twisted has many for what was cancelled
            if not self._reset:
                self._log.warn("no stream to {server}: {reason}", server=server, reason=reason_of(error))
            return False
        finally:
            self._attempt = self._opening = None
        now = self._reactor.seconds()
        self._servers.worked(server, now, self._uniform())
        self._loneliness.contacted(now)
        self._link.contacted(str(server))
        return True

    async def _live(self, session: Session) -> None:
        """From the start of a stream to its end, and until the next one may begin."""
        began = self._reactor.seconds()
        end_of_life = self._reactor.callLater(LIFE, session.abort)
        try:
            await session.when_ended()
        finally:
            self._session = None
            if end_of_life.active():
                end_of_life.cancel()
        now = self._reactor.seconds()
        self._loneliness.contacted(now)
        if session.reason is not None:
            self._log.info("the stream ended: {reason}", reason=reason_of(session.reason))
        if self._stopping or self._reset or self._transport.is_stale:
            return
        delay = self._reconnects.after_stream(now - began, session.orderly, self._uniform())
        if delay:
            await self._hold_back(delay)

    async def _after_failure(self) -> None:
        if (reason := self._loneliness.verdict(self._reactor.seconds())) is not None:
            self._link.give_up(reason, TOO_LONELY)
        await self._hold_back(self._reconnects.after_failure(self._uniform()))

    async def _hold_back(self, delay: float) -> None:
        await first_of([sleep(self._reactor, delay), self._wake.wait()])

    def _stopped(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # type: ignore[no-untyped-call]
            self._log.failure("the streaming communicator stopped working", failure)
            self._link.give_up("the communicator failed", 1)
