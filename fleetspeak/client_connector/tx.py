"""The connector for service programs that use Twisted: for daemons, and for what connects to a Socket service.

::

    connection = await connect(reactor, version="1.0")
    async for request in connection:
        await connection.send(answer_to(request))

`connect` without a path is for a daemon, which the client has started; with a path it connects to a Socket service.
Nothing blocks the reactor.  Every Deferred can be cancelled.  For reactors that watch file descriptors, as all do on
Linux and macOS.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPullProducer, IReadDescriptor, IWriteDescriptor
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.client_connector import inherited, socketfile
from fleetspeak.client_connector.messages import frame_of, heartbeat_message, startup_message
from fleetspeak.client_connector.relentless import ID_SIZE, READ_SIZE, Relentless
from fleetspeak.client_connector.socketfile import (
    ANSWER_TIME,
    FIRST_DELAY,
    ConnectionClosed,
    Delays,
    NotRunning,
    UnsafeSocket,
)
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

__all__ = ["Connection", "ConnectionClosed", "NotRunning", "ProtocolError", "UnsafeSocket", "connect"]

_T = TypeVar("_T")


class Connection(Protocol):
    """A connection to the client, of either kind.  An async iterator over the messages that come."""

    def send(self, message: common.Message, *, wait: bool = True) -> Deferred[int]:
        """Send a message; the client fills in its source.

        Fires with its size in bytes when the message is safe: for a daemon, when it is in the client's spool, or in the
        pipe if the client has none; over a socket, when the client has acknowledged it, which takes about 0.1 s and for
        a client without spool means that the server has it.  Several that are sent at a time wait together.

        If it is cancelled before the message's turn to be written, the message is not sent; later, it still is.

        @param message: needs a destination; one with a service name and no client id goes to the server.
        @param wait: False: do not wait for the message to be safe.
        @raise ValueError: (all in the Deferred) no `fleetspeak.Message`, over 2 MiB, or addressed to the client itself.
        @raise ConnectionClosed: the message may not have arrived.
        """

    def receive(self) -> Deferred[common.Message]:
        """The next message.  If it is cancelled, none is lost.

        @raise ConnectionClosed: there will be none any more.
        @raise ProtocolError: what came is not the protocol.
        """

    def heartbeat(self) -> Deferred[None]:
        """Tell the client that this process is alive; over a socket it does nothing, because nobody watches that."""

    def flush(self) -> Deferred[None]:
        """Fires when everything that was sent so far is safe.  Fails with ConnectionClosed."""

    def close(self) -> Deferred[None]:
        """End the connection; whoever waits gets ConnectionClosed.  What is not safe then may be lost."""

    def __aiter__(self) -> Connection: ...
    def __anext__(self) -> Deferred[common.Message]: ...


def connect(
    reactor: Any, path: str | None = None, *, version: str | None = None, timeout: float | None = None
) -> Deferred[Connection]:
    """Connect to the client, tell it who we are, and wait until it has answered.

    @param path: of the socket of a Socket service; None: this process is a daemon.
    @param version: of this program, for the reports on its use of resources.
    @param timeout: seconds to wait for somebody at the socket; None: for ever; 0: make one attempt.
    @return: a Deferred of the connection, which can be cancelled and fails with
        NotRunning: nobody listens at the path (in time): the client is not running, or lacks the service;
        UnsafeSocket: the socket is not as the client makes it (in time);
        TimeoutError: the client did not answer in time; it may be busy with another process;
        ValueError: no socket can have this path; without a path: this is no daemon;
        ConnectionClosed: the client that had started this daemon is gone.
    """
    return Deferred.fromCoroutine(_connect(reactor, path, version, timeout))


async def _connect(reactor: Any, path: str | None, version: str | None, patience: float | None) -> Connection:
    connection: DaemonConnection | SocketConnection
    if path is None:
        descriptors = inherited.channel_descriptors()
        connection = DaemonConnection(reactor, *descriptors, inherited.ack_descriptor(), version)
        beginning = connection.begin()
    else:
        connection = SocketConnection(reactor, path, version)
        beginning = connection.begin(patience)
    try:
        await beginning
    except BaseException:
        await connection.close()
        raise
    return connection


class _Waiters:
    """Those who wait for something to change, and look again each time it has."""

    def __init__(self) -> None:
        self._waiting: dict[Deferred[None], Callable[[], bool]] = {}
        self.closed: Exception | None = None
        """Why nothing will change any more."""

    def wait_for(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires when it is true.  Fails with `closed`, if that comes first.  Cancellable."""
        waiter: Deferred[None] = Deferred(self._waiting.__delitem__)
        if condition():
            waiter.callback(None)
        elif self.closed is not None:
            waiter.errback(self.closed)
        else:
            self._waiting[waiter] = condition
        return waiter

    def look(self) -> None:
        """Something has changed.  What one of them does may change it for the next."""
        for waiter, condition in list(self._waiting.items()):
            if waiter in self._waiting and condition():
                del self._waiting[waiter]
                waiter.callback(None)

    def close(self, error: Exception) -> None:
        """Nothing will change any more."""
        self.closed = self.closed or error
        self.look()
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            waiter.errback(self.closed)

    def raise_if_closed(self) -> None:
        """Raises what `close` was given."""
        if self.closed is not None:
            raise self.closed


class _Iterating:
    """Makes an async iterator of `receive`, which ends with the connection."""

    def receive(self) -> Deferred[common.Message]:
        raise NotImplementedError

    def __anext__(self) -> Deferred[common.Message]:
        return self.receive().addErrback(_stop_iteration)


def _stop_iteration(failure: Failure) -> common.Message:
    failure.trap(ConnectionClosed)  # type: ignore[no-untyped-call]
    raise StopAsyncIteration


class DaemonConnection(_Iterating):
    """The connection of a daemon, over three pipes that the client has handed down."""

    _log = Logger()

    def __init__(self, reactor: Any, read: int, write: int, acks: int | None, version: str | None) -> None:
        self._machine = inherited.InheritedChannel(version, acks=acks is not None)
        self._waiters = _Waiters()
        self._input = _Input(reactor, read, lambda: self._machine.needed, self._take)
        self._output = _Output(reactor, write, self._waiters.look, self._lost)
        self._acks = None if acks is None else _Input(reactor, acks, lambda: READ_SIZE, self._take_acks)
        self._acks_ended = False
        self._last_number = 0
        self._receivers = 0

    async def begin(self) -> None:
        if self._acks is not None:
            self._acks.read_on(True)
        await self._write(_Piece(self._machine.hello))
        await self._read_until(lambda: self._machine.opened)

    def send(self, message: common.Message, *, wait: bool = True) -> Deferred[int]:
        return Deferred.fromCoroutine(self._send(message, wait))

    def receive(self) -> Deferred[common.Message]:
        return self._read_until(lambda: self._machine.has_message).addCallback(lambda _: self._machine.receive())

    def heartbeat(self) -> Deferred[None]:
        return self._write(_Piece(frame_of(heartbeat_message())))

    def flush(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._flush())

    def close(self) -> Deferred[None]:
        self._input.close()
        self._output.close()
        if self._acks is not None:
            self._acks.close()
        self._waiters.close(ConnectionClosed("the connection was closed"))
        return succeed(None)

    def __aiter__(self) -> DaemonConnection:
        return self

    async def _send(self, message: common.Message, wait: bool) -> int:
        frame, size = self._machine.frame(message)
        piece = _Piece(frame, self._number)
        await self._write(piece)
        if wait:
            await self._wait_for_ack(piece.number)
        return size

    async def _flush(self) -> None:
        await self._waiters.wait_for(self._output.until_now())
        await self._wait_for_ack(self._last_number)

    def _number(self) -> int:
        self._last_number = self._machine.written()
        return self._last_number

    def _write(self, piece: _Piece) -> Deferred[None]:
        """Fires when the pipe has all of it.  Cancelling takes it back if nothing of it was written yet."""
        if self._waiters.closed is None:
            self._output.put(piece)
        written = self._waiters.wait_for(lambda: not piece.rest)
        return written.addErrback(self._take_back, piece)

    def _take_back(self, failure: Failure, piece: _Piece) -> Failure:
        self._output.take_back(piece)
        return failure

    async def _wait_for_ack(self, number: int) -> None:
        if self._acks is not None:
            await self._waiters.wait_for(lambda: self._machine.acked(number) or self._acks_ended)
            if not self._machine.acked(number):
                raise ConnectionClosed("the client went away before it had the message")

    # ---- in

    def _read_until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Read no more than that takes."""
        reading = self._waiters.wait_for(condition)
        if not reading.called:
            self._receivers += 1
            self._input.read_on(True)
            reading.addBoth(self._read_enough)
        return reading

    def _read_enough(self, result: _T) -> _T:
        self._receivers -= 1
        self._input.read_on(self._receivers > 0)
        return result

    def _take(self, data: bytes) -> None:
        try:
            self._machine.received(data)
        except ProtocolError as error:
            self._input.read_on(False)
            self._waiters.close(error)
            return
        if data:
            self._waiters.look()
        else:
            self._lost("the client has closed the channel")

    def _take_acks(self, data: bytes) -> None:
        if data:
            self._machine.acks(data)
        else:
            # What the client has sent before may still be in the other pipe.
            self._acks_ended = True
        self._waiters.look()

    def _lost(self, problem: str) -> None:
        self._input.read_on(False)
        self._waiters.close(ConnectionClosed(f"the client is gone: {problem}"))


class _Piece:
    """What is written as a whole."""

    def __init__(self, data: bytes, make_number: Callable[[], int] | None = None) -> None:
        """@param make_number: called when it is begun."""
        self.rest = memoryview(data)
        self.begun = False
        self.number = 0
        self._make_number = make_number

    def advance(self, written: int) -> None:
        """So many bytes more were written."""
        if not self.begun and self._make_number is not None:
            self.number = self._make_number()
        self.begun = True
        self.rest = self.rest[written:]


class _Descriptor:
    """A file descriptor of ours that the reactor watches."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._reactor = reactor
        self._descriptor = descriptor

    def fileno(self) -> int:
        """See `IFileDescriptor`."""
        return self._descriptor

    def logPrefix(self) -> str:
        """See `ILoggingContext`."""
        return "fleetspeak"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor will not watch it any more."""
        self.close()

    def close(self) -> None:
        """Watch it no more, and close it."""
        if self._descriptor < 0:
            return
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        # Later: the reactor may be about to tell of events by the numbers of descriptors, and a closed one's number can
        # be another one's by then.
        self._reactor.callLater(0, os.close, self._descriptor)
        self._descriptor = -1


@implementer(IReadDescriptor)
class _Input(_Descriptor):
    """Reads as much as is needed, while somebody needs it."""

    def __init__(self, reactor: Any, descriptor: int, needed: Callable[[], int], take: Callable[[bytes], None]) -> None:
        super().__init__(reactor, descriptor)
        self._needed = needed
        self._take = take

    def read_on(self, on: bool) -> None:
        """Read, or do not."""
        if self._descriptor >= 0:
            (self._reactor.addReader if on else self._reactor.removeReader)(self)

    def doRead(self) -> None:
        """There is something."""
        try:
            data = os.read(self._descriptor, self._needed())
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._reactor.removeReader(self)
        self._take(data)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found the end, without anything in front of it."""
        self._take(b"")


@implementer(IWriteDescriptor)
class _Output(_Descriptor):
    """Writes piece after piece."""

    def __init__(self, reactor: Any, descriptor: int, written: Callable[[], None], lost: Callable[[str], None]) -> None:
        super().__init__(reactor, descriptor)
        self._written = written
        self._lost = lost
        self._queue: deque[_Piece] = deque()

    def put(self, piece: _Piece) -> None:
        """Write it behind what is being written."""
        self._queue.append(piece)
        if self._queue[0] is piece:
            self.doWrite()

    def take_back(self, piece: _Piece) -> None:
        """Do not write it, unless that has begun."""
        if not piece.begun and piece in self._queue:
            self._queue.remove(piece)

    def until_now(self) -> Callable[[], bool]:
        """Tells whether everything is written that is in the queue now."""
        queued = list(self._queue)
        return lambda: not any(piece.rest for piece in queued)

    def doWrite(self) -> None:
        """There may be room."""
        while self._queue:
            piece = self._queue[0]
            try:
                piece.advance(os.write(self._descriptor, piece.rest))
            except BlockingIOError:
                self._reactor.addWriter(self)
                break
            except OSError as error:
                self._reactor.removeWriter(self)
                self._lost(str(error))
                return
            if not piece.rest:
                self._queue.popleft()
        if not self._queue:
            self._reactor.removeWriter(self)
        self._written()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found that the other end is closed."""
        self._lost("it has closed its end")


class SocketConnection(_Iterating):
    """The connection to a Socket service, which is made again whenever it is lost."""

    _log = Logger()

    def __init__(self, reactor: Any, path: str, version: str | None) -> None:
        self.reactor = reactor
        self._path = path
        self.machine = Relentless(startup_message(version), lambda: os.urandom(ID_SIZE))
        self._waiters = _Waiters()
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
        return self._waiters.wait_for(condition).addBoth(self._waited)

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
class _Wire(TwistedProtocol):
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
