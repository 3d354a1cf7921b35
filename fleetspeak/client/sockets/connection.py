"""One connection of a process to a Socket service, from its acceptance until all that came over it is dealt with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from fleetspeak.client.addressing import SYSTEM
from fleetspeak.client.process.child import ChildGone, InputPipe
from fleetspeak.client.process.handedover import Frame
from fleetspeak.client.process.outflow import ACKED_SHARE, Outflow
from fleetspeak.client.sockets.listening import PeerCredentials
from fleetspeak.client.sockets.localacks import PERIOD, LocalAcks
from fleetspeak.client.sockets.monitoring import PeerMonitor
from fleetspeak.client.sockets.unread import Unread, hung_up
from fleetspeak.core.inflight import InFlight
from fleetspeak.errors import FleetspeakError, ProtocolError
from fleetspeak.pb import channel, common
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelreader import READ_LIMIT, ChannelReader

LINGER = 1.0
"""Seconds in which the client must accept what a process sent last, once its connection has ended."""

LOOK_PERIOD = 1.0
"""Seconds between two looks whether a process that is held up is still there."""

PeerGone = ChildGone
"""The process closed the connection before the socket had all of a message."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times that tests shorten."""

    read_limit: float = READ_LIMIT
    linger: float = LINGER
    ack_period: float = PERIOD


class SocketClosed(FleetspeakError):
    """Why a connection ended; the text is for people."""


class Sender(Protocol):
    """What a connection needs of the service's context (`IClientServiceContext`)."""

    @property
    def service_name(self) -> str: ...
    @property
    def spooled(self) -> bool: ...
    def send(self, message: common.Message, on_ack: Callable[[], None] | None = None) -> Deferred[None]: ...


class SocketConnection(TwistedProtocol):
    """Talks to one process.

    Its messages are accepted one after the other; while one must wait, the socket is not read.  What the process
    wrote and the client has not accepted a second after the end of the connection is dropped: it was not
    acknowledged, so the process sends it again.
    """

    _log = Logger()

    def __init__(
        self,
        context: Sender,
        clock: Any,
        in_flight: InFlight,
        peer: PeerCredentials | None,
        monitor: PeerMonitor | None,
        limits: Limits,
    ) -> None:
        """@param clock: the reactor.
        @param peer: who has connected, as far as the kernel tells.
        @param monitor: watches the process once it has sent StartupData; None: nobody does.
        """
        self._context = context
        self._service = context.service_name
        self._clock = clock
        self._in_flight = in_flight
        self._peer = peer
        self._monitor = monitor
        self._limits = limits
        self._reader = ChannelReader(clock.seconds(), limits.read_limit)
        self._outflow = Outflow(self._service, self._send, self, [0], ACKED_SHARE)
        self._acks = LocalAcks(clock, self._write, self._go_on_reading, limits.ack_period)
        self._pipe: InputPipe
        self._unread: Unread
        self._held_up = False
        self._timer: IDelayedCall | None = None
        self._started = False
        self._stopping = False
        self._lost = False
        self._reason = ""
        self._when_open: list[Deferred[None]] = []
        self._over: Deferred[None] = Deferred()

    # ---- for the service

    async def deliver(self, frame: Frame) -> None:
        """Hand a message over, waiting until the process takes messages and the socket has taken this one.

        @raise PeerGone: the process has at most a part of it.
        """
        await self.opened()
        await self._write(frame.data, frame)

    def opened(self) -> Deferred[None]:
        """Fires when the process takes messages; fails with PeerGone when it never will.  Cancellable."""
        opened: Deferred[None] = Deferred(lambda waiting: self._when_open.remove(waiting))
        if self._reason:
            opened.errback(PeerGone(self._reason))
        elif self._reader.opened:
            opened.callback(None)
        else:
            self._when_open.append(opened)
        return opened

    def left_over(self) -> list[Frame]:
        """The messages that the process did not read, or may not have; ask when it is over."""
        return self._unread.left_over()

    def stop(self) -> None:
        """End it: what has arrived is acknowledged, then the connection is closed."""
        if not self._stopping and not self._lost:
            self._stopping = True
            self._end("the service is stopped")

    @property
    def ending(self) -> bool:
        """It takes no more messages."""
        return bool(self._reason)

    @property
    def problem(self) -> SocketClosed | None:
        """Why it ended, or None if we wanted it to."""
        return None if self._stopping else SocketClosed(self._reason)

    def over(self) -> Deferred[None]:
        """Fires when the connection is closed and what came over it is accepted or dropped.  Ask once."""
        return self._over

    # ---- what Twisted tells

    def connectionMade(self) -> None:  # noqa: N802
        """The process may be spoken to, but nothing else is written before its magic number has come."""
        assert self.transport is not None
        transport: Any = self.transport
        self._pipe = InputPipe(transport)
        self._unread = Unread(transport.getHandle())
        self._tell(LogLevel.info, "process {pid} has connected", pid=self._peer.pid if self._peer else "?")
        Deferred.fromCoroutine(self._write(channelframes.MAGIC)).addErrback(_is_gone)
        self._watch()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Take what the process wrote."""
        if self._reason:
            return
        self._unread.look()
        was_open = self._reader.opened
        messages: list[common.Message] = []
        problem = ""
        try:
            for body in self._reader.feed(data, self._clock.seconds()):
                message = channelframes.parse(body)
                if not self._take_startup(message):
                    messages.append(message)
            self._reader.feed(b"", self._clock.seconds())  # raises what is wrong behind these messages
        except ProtocolError as error:
            problem = str(error)
            self._tell(LogLevel.warn, "a process does not keep to the protocol: {error}", error=error)
        self._outflow.put(messages, held=self._reader.held)
        if problem:
            self._end(problem)
        elif self._reader.opened and not was_open:
            waiting, self._when_open = self._when_open, []
            for opened in waiting:
                opened.callback(None)
        self._hold_or_go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """The connection is closed, by whichever end."""
        self._lost = True
        in_order = isinstance(reason.value, ConnectionDone)
        if in_order and not self._reason:
            self._unread.read_everything()
            try:
                self._reader.finish()
            except ProtocolError as error:
                self._tell(LogLevel.info, "a process left in the middle: {error}", error=error)
        self._reason = self._reason or "socket closed by unknown cause"
        self._stop_watching()
        self._acks.close()
        if self._monitor is not None:
            self._monitor.stop()
        self._tell_not_open()
        finished = self._outflow.finish()
        if not finished.called:
            self._timer = self._clock.callLater(self._limits.linger, self._drop)
        finished.addCallback(self._finish)

    # ---- from the process

    def _take_startup(self, message: common.Message) -> bool:
        """Is it StartupData?  Only the first one says something."""
        if message.destination.service_name != SYSTEM or message.message_type != "StartupData":
            return False
        if not self._started:
            self._started = True
            startup = channel.StartupData()
            try:
                message.data.Unpack(startup)
            except DecodeError as error:
                raise ProtocolError(f"error parsing received StartupData: {error}") from None
            if self._monitor is not None:
                self._monitor.introduced(startup, self._peer)
        return True

    def _send(self, message: common.Message) -> Deferred[None]:
        """Send a message of the process, and acknowledge it to the process when it need not be repeated any more."""
        message_id = message.source_message_id
        if not self._in_flight.begin(message_id, self._acks.note):
            return succeed(None)
        durable = self._context.spooled
        arrived = partial(self._in_flight.arrived, message_id)
        accepted = self._context.send(message, None if durable or not message_id else arrived)
        if durable:
            accepted.addCallback(lambda _: arrived())
        return accepted.addErrback(self._not_sent, message_id)

    def _not_sent(self, failure: Failure, message_id: bytes) -> Failure:
        if isinstance(failure.value, ValueError):
            # It never can be: if it were not acknowledged, the process would repeat it for ever.
            self._in_flight.arrived(message_id)
        else:
            self._in_flight.dropped(message_id)
        return failure

    # ---- being held up

    def pause(self, _: int) -> None:
        """Read no more: a message waits (see `fleetspeak.client.process.outflow.Tap`)."""
        self._hold_or_go_on()

    def resume(self, _: int) -> None:
        """Nothing waits any more."""
        self._go_on_reading()

    def _go_on_reading(self) -> None:
        self._hold_or_go_on()

    def _hold_or_go_on(self) -> None:
        """Read exactly while nothing waits, for the client or for the process."""
        held_up = self._outflow.blocked or self._acks.too_many
        transport: Any = self.transport
        if self._lost:
            return
        if held_up and not self._held_up:
            transport.pauseProducing()
        elif self._held_up and not held_up:
            self._reader.resumed(self._clock.seconds())
            transport.resumeProducing()
        self._held_up = held_up
        self._watch()

    # ---- to the process

    async def _write(self, data: bytes, frame: Frame | None = None) -> None:
        """Write it behind what is being written; done when the socket has it.  Raises PeerGone."""
        self._unread.look()
        await self._pipe.write(data)
        self._unread.wrote(len(data), frame)

    def _tell_not_open(self) -> None:
        waiting, self._when_open = self._when_open, []
        for opened in waiting:
            opened.errback(PeerGone(self._reason))

    # ---- time

    def _watch(self) -> None:
        """See to it that `_check` is called when something is due."""
        if self._reason:
            return
        now = self._clock.seconds()
        due = now + LOOK_PERIOD if self._held_up else self._reader.deadline
        if self._timer is not None:
            if due is not None and self._timer.getTime() <= due:
                return
            self._stop_watching()
        if due is not None:
            self._timer = self._clock.callLater(max(0.0, due - now), self._check)

    def _check(self) -> None:
        self._timer = None
        transport: Any = self.transport
        if self._held_up:
            if hung_up(transport.getHandle()):
                self._end("the process is gone")
        else:
            try:
                self._reader.check(self._clock.seconds())
            except ProtocolError as error:
                self._tell(LogLevel.warn, "a process does not keep to the protocol: {error}", error=error)
                self._end(str(error))
        self._watch()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- the end

    def _end(self, reason: str) -> None:
        """Write the last acks and close, whether or not the process reads them."""
        if self._reason:
            return
        self._reason = reason
        self._unread.look()
        self._stop_watching()
        self._tell_not_open()
        transport: Any = self.transport
        acked = self._acks.finish()
        self._timer = self._clock.callLater(self._limits.linger, self._abort)
        acked.addCallback(lambda _: transport.loseConnection())

    def _abort(self) -> None:
        self._timer = None
        transport: Any = self.transport
        transport.abortConnection()

    def _drop(self) -> None:
        self._timer = None
        self._outflow.drop()

    def _finish(self, _: object) -> None:
        self._stop_watching()
        self._tell(LogLevel.info, "connection closed: {reason}", reason=self._reason)
        self._over.callback(None)

    def _tell(self, level: Any, text: str, **fields: object) -> None:
        self._log.emit(level, "service {service}: " + text, service=self._service, **fields)


def _is_gone(failure: Failure) -> None:
    failure.trap(PeerGone)  # type: ignore[no-untyped-call]
