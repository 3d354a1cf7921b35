"""The connection to a Socket service, which is made again whenever it is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.client_connector import socketfile
from fleetspeak.client_connector.messages import startup_message
from fleetspeak.client_connector.relentless import ID_SIZE, OVERFULL, READ_SIZE, Relentless
from fleetspeak.client_connector.socketfile import ANSWER_TIME, FIRST_DELAY, ConnectionClosed, Delays, NotRunning
from fleetspeak.client_connector.tx.base import Iterating, Waiters
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

_T = TypeVar("_T")


class SocketConnection(Iterating):
    """The connection to a Socket service, which is made again whenever it is lost."""

    _log = Logger()

    def __init__(self, reactor: Any, path: str, version: str | None) -> None:
        self.reactor = reactor
        self._path = path
        self.machine = Relentless(startup_message(version), lambda: os.urandom(ID_SIZE))
        self._waiters = Waiters()
        self._wire: _Wire | None = None
        self._senders = 0
        self._keeping_up: Deferred[None] | None = None

    async def begin(self, patience: float | None) -> None:
        deadline = None if patience is None else self.reactor.seconds() + patience
        delays = Delays()
        while True:
            try:
                wire = await self._connect()
                break
            except (OSError, ConnectError) as error:
                delay = delays.next()
                if deadline is not None and self.reactor.seconds() + delay > deadline:
                    raise
                await self._sleep(delay, str(error))
        self._wire = wire
        self._keeping_up = Deferred.fromCoroutine(self._keep_up(wire))
        self._keeping_up.addErrback(self._kept_up)
        opened = self._waiters.wait_for(lambda: self.machine.opened)
        if deadline is not None:
            left = max(ANSWER_TIME, deadline - self.reactor.seconds())
            opened.addTimeout(left, self.reactor, onTimeoutCancel=_no_answer)
        await opened

    def send(self, message: common.Message, *, wait: bool = True) -> Deferred[int]:
        return Deferred.fromCoroutine(self._send(message, wait))

    def receive(self) -> Deferred[common.Message]:
        return Deferred.fromCoroutine(self._receive())

    def heartbeat(self) -> Deferred[None]:
        return self._waiters.wait_for(lambda: self._waiters.closed is None)

    def flush(self) -> Deferred[None]:
        sent = self.machine.pending_ids()
        return self._wait_for_acks(lambda: not any(map(self.machine.is_pending, sent)))

    def close(self) -> Deferred[None]:
        self._waiters.close(ConnectionClosed("the connection was closed"))
        wire, self._wire = self._wire, None
        if self._keeping_up is not None:
            self._keeping_up.cancel()
        return succeed(None) if wire is None else wire.abort()

    def __aiter__(self) -> SocketConnection:
        return self

    async def _send(self, message: common.Message, wait: bool) -> int:
        self._waiters.raise_if_closed()
        await self._wait_for_acks(lambda: self.machine.has_room)
        message_id, size = self.machine.send(message)
        self.pump()
        if wait:
            await self._wait_for_acks(lambda: not self.machine.is_pending(message_id))
        return size

    async def _receive(self) -> common.Message:
        self._waiters.raise_if_closed()
        await self._waiters.wait_for(lambda: self.machine.has_message)
        received = self.machine.receive()
        assert received is not None
        self.pump()
        return received[0]

    def _wait_for_acks(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Wait for what a LocalAck brings, which may be behind messages that nobody receives at the moment."""
        self._senders += 1
        self.pump()
        waiting = self._waiters.wait_for(lambda: condition() or self.machine.overfull)
        waiting.addBoth(self._waited)
        return waiting.addCallback(_check_it_is, condition)

    def _waited(self, result: _T) -> _T:
        self._senders -= 1
        return result

    # ---- the connection

    @property
    def wants_data(self) -> bool:
        """Should it be read?"""
        return self.machine.wants_data(waiting=self._senders > 0)

    def changed(self) -> None:
        """Something came."""
        self.machine.acked()
        self._waiters.look()

    def pump(self) -> None:
        """Write and read what can be, if there is a connection."""
        if self._wire is not None:
            self._wire.pump()

    async def _connect(self) -> _Wire:
        """Raises NotRunning, UnsafeSocket, or ConnectError."""
        socketfile.check(self._path)
        endpoint = UNIXClientEndpoint(self.reactor, self._path)  # type: ignore[no-untyped-call]
        try:
            connected: Any = await connectProtocol(endpoint, _Wire(self))  # type: ignore[no-untyped-call]
        except ConnectingCancelledError:
            raise CancelledError from None
        except ConnectError as error:
            raise NotRunning(f"nobody listens at {self._path}: the client is not running") from error
        assert isinstance(connected, _Wire)
        return connected

    async def _keep_up(self, wire: _Wire) -> None:
        delays = Delays()
        while True:
            since = self.reactor.seconds()
            self._wire = wire
            problem = await wire.when_lost()
            self._wire = None
            if wire.opened and self.reactor.seconds() - since > FIRST_DELAY:
                delays.reset()
            else:
                await self._sleep(delays.next(), problem)
            while True:
                try:
                    wire = await self._connect()
                    break
                except (OSError, ConnectError) as error:
                    await self._sleep(delays.next(), str(error))

    def _kept_up(self, failure: Failure) -> None:
        if self._waiters.closed is None:
            self._log.failure("the connection to {path} failed", failure, path=self._path)
            self._waiters.close(ConnectionClosed(str(failure.value)))

    def _sleep(self, seconds: float, problem: str) -> Deferred[None]:
        self._log.warn(
            "no connection to {path}, trying again in {seconds:.1f} s: {problem}",
            path=self._path,
            seconds=seconds,
            problem=problem,
        )
        sleeping: Deferred[None] = deferLater(self.reactor, seconds)
        return sleeping


@implementer(IPullProducer)
class _Wire(Protocol):
    """One connection to the socket: carries what the machine has to say, and what it is told."""

    def __init__(self, owner: SocketConnection) -> None:
        self._owner = owner
        self._clock = owner.reactor
        self._machine = owner.machine
        self._writing = False
        self._reading = True
        self._lost = False
        self._problem = "the client has closed the connection"
        self._timer: IDelayedCall | None = None
        self._when_lost: list[Deferred[str]] = []
        self._transport: Any = None
        self.opened = False
        """Did the client answer?"""

    def when_lost(self) -> Deferred[str]:
        """Fires with the reason.  Cancellable."""
        lost: Deferred[str] = Deferred(lambda _: self._when_lost.remove(lost))
        if self._lost:
            lost.callback(self._problem)
        else:
            self._when_lost.append(lost)
        return lost

    def abort(self) -> Deferred[None]:
        """Close it now.  Fires when it is closed."""
        lost = self.when_lost()
        self._transport.abortConnection()
        return lost.addCallback(lambda _: None)

    def pump(self) -> None:
        """Write what there is while it is taken; read if somebody wants to."""
        if self._lost:
            return
        if not self._writing:
            self._writing = True
            self._transport.registerProducer(self, False)
        wanted = self._owner.wants_data
        if wanted and not self._reading:
            self._machine.resumed(self._clock.seconds())
            self._transport.resumeProducing()
        elif self._reading and not wanted:
            self._transport.pauseProducing()
        self._reading = wanted
        self._watch()

    # ---- what Twisted tells

    def connectionMade(self) -> None:
        """Begin."""
        self._transport = self.transport
        self._transport.bufferSize = READ_SIZE
        self._machine.connected(self._clock.seconds())
        self.pump()

    def dataReceived(self, data: bytes) -> None:
        """Take what came."""
        self._take(data)

    def resumeProducing(self) -> None:
        """Everything so far is written."""
        data = self._machine.output()
        if data:
            self._transport.write(data)
        else:
            self._writing = False
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """Nothing will be written any more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end."""
        if self._lost:
            return
        self._lost = True
        self.opened = self._machine.opened
        if not isinstance(reason.value, ConnectionDone):
            self._problem = str(reason.value)
        self._machine.disconnected()
        self._stop_watching()
        waiting, self._when_lost = self._when_lost, []
        for lost in waiting:
            lost.callback(self._problem)

    def _take(self, data: bytes) -> None:
        try:
            self._machine.received(data, self._clock.seconds())
        except ProtocolError as error:
            self._fail(str(error))
        self._owner.changed()
        self.pump()

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._transport.abortConnection()

    def _watch(self) -> None:
        deadline = self._machine.deadline if self._reading else None
        if self._timer is not None and (deadline is None or self._timer.getTime() != deadline):
            self._stop_watching()
        if deadline is not None and self._timer is None:
            self._timer = self._clock.callLater(max(0.0, deadline - self._clock.seconds()), self._check)

    def _check(self) -> None:
        self._timer = None
        try:
            self._machine.check(self._clock.seconds())
        except ProtocolError as error:
            self._fail(str(error))
        else:
            self._watch()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _no_answer(result: Any, timeout: float) -> Any:
    raise TimeoutError("the client did not answer; it may be busy with another process")


def _check_it_is(_: None, condition: Callable[[], bool]) -> None:
    if not condition():
        raise BufferError(OVERFULL)
