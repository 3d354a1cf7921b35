"""Calls of one gRPC method of one target, any number at a time, over one connection that the reactor holds.

grpcio makes its calls in threads of its own, each of which then competes with the reactor for the interpreter; that
takes two to three times the CPU of everything else that is done for a message.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.errors import ProtocolError
from fleetspeak.wire.grpccalls import Status, request_body, status_of, time_limit
from fleetspeak.wire.h2calls import H2Calls, Response

CONNECT_PAUSE = 1.0
"""Seconds between two attempts to connect; calls that are made meanwhile fail as the last attempt did."""

CONNECT_LIMIT = 10.0
"""Seconds until a connection must be ready, TLS's handshake included."""

TICK = 0.5
"""Seconds between two looks for calls whose time is up."""


@dataclass(slots=True, eq=False)
class _Call:
    body: bytes
    deadline: float
    done: Deferred[Status]
    connection: CallConnection | None = None
    number: int = 0
    """On that connection."""
    sent: float = 0.0
    tries: int = 0


@dataclass(slots=True)
class _Attempt:
    """To connect, TLS's handshake included."""

    timer: IDelayedCall
    connected: Deferred[Any] | None = None


class CallChannel:
    """Connects when there is a call, and again when that connection is lost.

    A call ends as UNAVAILABLE when the target cannot be reached, or goes away: it may have been carried out.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, head: bytes, reactor: Any, *, tls: bool = False) -> None:
        """
        @param head: see `fleetspeak.wire.grpccalls.request_head`.
        @param tls: the endpoint's connections are TLS, and no good unless HTTP/2 is agreed on.
        """
        self._endpoint = endpoint
        self._head = head
        self._reactor = reactor
        self._tls = tls
        self._open: dict[_Call, None] = {}
        self._waiting: deque[_Call] = deque()
        self._connection: CallConnection | None = None
        self._connections: set[CallConnection] = set()
        self._attempt: _Attempt | None = None
        self._failed_at = -CONNECT_PAUSE
        self._failure = Status("UNAVAILABLE", "not connected")
        self._timer: IDelayedCall | None = None
        self._closed = False

    def call(self, message: bytes, seconds: float) -> Deferred[Status]:
        """Send a message, which must be answered within so many seconds.  Fails only by being cancelled."""
        deadline = self._reactor.seconds() + seconds
        call = _Call(request_body(message), deadline, Deferred(lambda _: self._forget(call)))
        self._open[call] = None
        self._waiting.append(call)
        if self._timer is None and not self._closed:
            self._timer = self._reactor.callLater(TICK, self._end_late_ones)
        self._send_waiting()
        return call.done

    def close(self) -> None:
        """End all connections; calls that run end as CANCELLED."""
        self._closed = True
        self._failure = Status("CANCELLED", "the service is stopping")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in list(self._open):
            self._end(call, self._failure)
        self._stop_attempt()
        for connection in list(self._connections):
            connection.close()

    # -- connecting

    def _send_waiting(self) -> None:
        if self._connection is None:
            if self._waiting:
                self._connect()
            return
        while self._waiting and self._connection.calls.has_room:
            call = self._waiting.popleft()
            call.sent = self._reactor.seconds()
            call.tries += 1
            self._connection.begin(call, self._head + time_limit(call.deadline - call.sent))

    def _connect(self) -> None:
        if self._attempt is not None:
            return
        if self._closed or self._reactor.seconds() - self._failed_at < CONNECT_PAUSE:
            self._fail_waiting()
            return
        attempt = self._attempt = _Attempt(self._reactor.callLater(CONNECT_LIMIT, self._connecting_takes_too_long))
        factory = Factory.forProtocol(lambda: CallConnection(self, self._reactor, tls=self._tls))
        factory.noisy = False
        attempt.connected = self._endpoint.connect(factory)
        attempt.connected.addErrback(self._cannot_connect)

    def _cannot_connect(self, failure: Failure) -> None:
        if self._stop_attempt() and not self._closed:
            self._unavailable(f"cannot connect: {failure.getErrorMessage()}")

    def _connecting_takes_too_long(self) -> None:
        self._stop_attempt()
        self._unavailable(f"there was no connection within {CONNECT_LIMIT:.0f} s")

    def _stop_attempt(self) -> bool:
        """@return: whether there was one."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return False
        if attempt.timer.active():
            attempt.timer.cancel()
        if attempt.connected is not None:
            attempt.connected.cancel()
        for connection in [one for one in self._connections if not one.is_ready]:
            connection.close()
        return True

    def _unavailable(self, details: str) -> None:
        self._failed_at = self._reactor.seconds()
        self._failure = Status("UNAVAILABLE", details)
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self._end(call, self._failure)

    # -- what connections tell

    def opened(self, connection: CallConnection) -> None:
        """There is a connection, which may not be ready yet."""
        self._connections.add(connection)

    def ready(self, connection: CallConnection) -> None:
        """It takes calls."""
        if self._attempt is not None:
            self._attempt.timer.cancel()
            self._attempt = None
        self._connection = connection
        self._send_waiting()

    def ended(self, call: _Call, response: Response) -> None:
        """A call has its response."""
        if not response.is_begun and call.tries == 1 and not self._closed:
            self._waiting.append(call)  # nothing was done for it, so it may go to another connection at once
        else:
            self._end(call, status_of(response))

    def progressed(self, connection: CallConnection) -> None:
        """There may be room for more calls on it, or it takes none any more."""
        if connection is self._connection and not connection.calls.is_usable:
            self._connection = None
        self._send_waiting()

    def lost(self, connection: CallConnection, error: str) -> None:
        """It is gone, and all its calls have ended."""
        self._connections.discard(connection)
        if connection is self._connection:
            self._connection = None
        elif connection.is_ready or not self._stop_attempt():
            return
        if not self._closed:
            self._unavailable(error)

    # -- the end of calls

    def _end(self, call: _Call, status: Status) -> None:
        if call in self._open:
            del self._open[call]
            call.done.callback(status)

    def _forget(self, call: _Call) -> None:
        """Nobody waits for it any more."""
        self._open.pop(call, None)
        if call.connection is not None:
            call.connection.cancel(call)
        elif call in self._waiting:
            self._waiting.remove(call)

    def _end_late_ones(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        for call in [call for call in self._open if call.deadline <= now]:
            connection, done = call.connection, call.done
            self._forget(call)
            if connection is not None and connection.heard < call.sent:
                connection.close("the target was not heard of for as long as a call may take")
            done.callback(Status("DEADLINE_EXCEEDED", "the target did not answer in time"))
        if self._open and self._timer is None:
            self._timer = self._reactor.callLater(TICK, self._end_late_ones)


@implementer(IHandshakeListener)
class CallConnection(Protocol):
    """One connection of a channel."""

    def __init__(self, channel: CallChannel, reactor: Any, *, tls: bool) -> None:
        self.calls = H2Calls()
        self.heard = 0.0
        """When something came, by the reactor's clock."""
        self.is_ready = False
        self._channel = channel
        self._reactor = reactor
        self._tls = tls
        self._called: dict[int, _Call] = {}
        self._sending: IDelayedCall | None = None
        self._error = ""

    def begin(self, call: _Call, head: bytes) -> None:
        """Send a call; only while `calls` has room."""
        call.connection = self
        call.number = self.calls.begin(head, call.body)
        self._called[call.number] = call
        self._send_soon()

    def cancel(self, call: _Call) -> None:
        """Nobody waits for its response."""
        if self._called.pop(call.number, None) is not None:
            self.calls.cancel(call.number)
            self._send_soon()

    def close(self, error: str = "the connection was closed") -> None:
        """End it now, with all its calls."""
        self._error = self._error or error
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]
        self._fail(self._error)

    # -- Twisted's protocol

    def connectionMade(self) -> None:  # noqa: N802
        self._channel.opened(self)
        if not self._tls:
            self._is_ready()

    def handshakeCompleted(self) -> None:  # noqa: N802
        if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
            self._is_ready()
        else:
            self.close("the target does not speak HTTP/2 over TLS; is it a gRPC server?")

    def _is_ready(self) -> None:
        self.is_ready = True
        self._send()
        self._channel.ready(self)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._error:
            return
        self.heard = self._reactor.seconds()
        try:
            responses = self.calls.receive(data)
        except ProtocolError as error:
            self.close(f"the target does not keep to HTTP/2: {error}")
            return
        for response in responses:
            self._tell(response)
        self._send_soon()
        self._channel.progressed(self)
        if not self.calls.is_usable and not self._called and self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._fail(self._error or f"the connection was lost: {reason.getErrorMessage()}")

    # -- inside

    def _tell(self, response: Response) -> None:
        call = self._called.pop(response.number, None)
        if call is not None:
            call.connection = None
            self._channel.ended(call, response)

    def _fail(self, error: str) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        for response in self.calls.lose(error):
            self._tell(response)
        self._channel.lost(self, error)

    def _send_soon(self) -> None:
        """At the end of the reactor's turn, so that all calls of a turn are one write."""
        if self._sending is None and not self._error:
            self._sending = self._reactor.callLater(0, self._send)

    def _send(self) -> None:
        self._sending = None
        if (data := self.calls.take()) and self.transport is not None:
            self.transport.write(data)
