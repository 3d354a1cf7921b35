"""One request over HTTP/2 and its response, which may run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse
from zope.interface import implementer

from fleetspeak.errors import ProtocolError

PARTING = 5.0
"""Seconds that the server has to end its side of a stream that is done."""


_PIECE = 64 * 1024
"""Bytes that a consumer gets at a time."""


class Carrier(Protocol):
    """What a stream needs of its connection."""

    def send(self, stream: H2Stream) -> None:
        """Send what the windows and the transport allow of what is to be sent."""

    def consumed(self, stream: H2Stream, size: int) -> None:
        """So many bytes of flow control are free again."""

    def cancel(self, stream: H2Stream) -> None:
        """It is not wanted any more."""


@implementer(IPushProducer)
class H2Stream:
    """Has the interface of `HttpStream`; is also the transport that the body's consumer gets."""

    def __init__(self, number: int, carrier: Carrier, clock: IReactorTime, on_drained: Callable[[], None]) -> None:
        """@param on_drained: called whenever everything is sent after `full` was set."""
        self.number = number
        self._carrier = carrier
        self._clock = clock
        self._on_drained = on_drained
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._padding = 0
        self._consumer: Any = None
        self._paused = True
        self._delivering = False
        self._outcome: Failure | None = None
        self._over = False
        self._parting: IDelayedCall | None = None
        self.response: Deferred[IResponse] = Deferred(lambda _: self.abort())
        """Fires with the head of the response."""
        self.full = False
        """Not everything that was written could be sent; writing now only fills memory."""
        self.is_ending = False
        """Nothing more will be written."""
        self.is_sent = False
        """And that was said to the server."""

    # ---- the request

    def write(self, data: bytes) -> None:
        """Send more of the request's body."""
        if not self.is_ending and not self._over:
            self._outgoing += data
            self._carrier.send(self)
            self.full = bool(self._outgoing)

    def end(self) -> None:
        """The request is complete; the stream is over soon, whether the server ends its side or not."""
        if not self.is_ending and not self._over:
            self.complete()
            self._parting = self._clock.callLater(PARTING, self.abort)

    def complete(self) -> None:
        """The request is complete; its response is still waited for."""
        self.is_ending = True
        self._carrier.send(self)

    def abort(self) -> None:
        """End it, without waiting for anything."""
        if not self._over:
            self._over = True
            self._outgoing.clear()
            self._forget_incoming()
            self._carrier.cancel(self)
            self._stop_parting()
            self._clock.callLater(0, self._fail_response, Failure(CancelledError()))  # type: ignore[no-untyped-call]

    # ---- for the connection

    @property
    def outgoing(self) -> int:
        """Bytes that are to be sent."""
        return len(self._outgoing)

    def take(self, size: int) -> bytes:
        """At most so many of them, to be sent now."""
        taken = bytes(self._outgoing[:size])
        del self._outgoing[:size]
        return taken

    def drained(self) -> None:
        """Everything may have been sent."""
        if self.full and not self._outgoing and not self._over:
            self.full = False
            self._on_drained()

    def answered(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of the response.  Raises ProtocolError."""
        response = H2Response(self, headers)
        if not self.response.called:
            self.response.callback(response)

    def received(self, data: bytes, size: int) -> None:
        """A piece of the body, which takes so many bytes of flow control."""
        if self._over:
            self._carrier.consumed(self, size)
        else:
            self._incoming += data
            self._padding += size - len(data)
            self._deliver()

    def ended(self, outcome: Failure) -> None:
        """Nothing more will come, for this reason: ResponseDone, or an error."""
        if self._outcome is None:
            self._outcome = outcome
            self._outgoing.clear()
            self.is_ending = True
            self._stop_parting()
            if not self._over:
                self._fail_response(outcome)
                self._deliver()

    # ---- the response's body

    def attach(self, consumer: IProtocol) -> None:
        """Deliver the body to it."""
        self._consumer = consumer
        self._paused = False
        consumer.makeConnection(self)  # type: ignore[arg-type]  # it is what Twisted's own responses give
        self._deliver()

    def pauseProducing(self) -> None:  # noqa: N802
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        self._paused = False
        self._deliver()

    def stopProducing(self) -> None:  # noqa: N802
        self.abort()

    def loseConnection(self) -> None:  # noqa: N802
        self.abort()

    def _deliver(self) -> None:
        if self._consumer is None or self._delivering:
            return
        self._delivering = True
        try:
            while self._incoming and not self._paused and not self._over:
                data = bytes(self._incoming[:_PIECE])
                del self._incoming[:_PIECE]
                self._consumer.dataReceived(data)
                self._carrier.consumed(self, len(data))
        finally:
            self._delivering = False
        if not self._incoming:
            self._forget_incoming()  # of which only the padding is left
        if self._outcome is not None and not self._incoming and not self._over:
            self._over = True
            self._consumer.connectionLost(self._outcome)

    def _forget_incoming(self) -> None:
        size, self._padding = len(self._incoming) + self._padding, 0
        self._incoming.clear()
        self._carrier.consumed(self, size)

    def _fail_response(self, failure: Failure) -> None:
        if not self.response.called:
            if failure.check(ResponseDone):  # type: ignore[no-untyped-call]
                failure = Failure(ProtocolError("the response has no head"))  # type: ignore[no-untyped-call]
            self.response.errback(failure)

    def _stop_parting(self) -> None:
        if self._parting is not None and self._parting.active():
            self._parting.cancel()


@implementer(IResponse)
class H2Response:
    """The head of a response, and the way to its body."""

    version = (b"HTTP", 2, 0)
    phrase = b""
    request = None
    previousResponse = None  # noqa: N815

    def __init__(self, stream: H2Stream, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises ProtocolError."""
        self._stream = stream
        self.code = 0
        self.length: Any = UNKNOWN_LENGTH
        self.headers = Headers()
        for name, value in headers:
            if name == b":status":
                self.code = _number(value)
            elif name == b"content-length":
                self.length = _number(value)
            elif not name.startswith(b":"):
                self.headers.addRawHeader(name, value)

    def deliverBody(self, protocol: IProtocol) -> None:  # noqa: N802
        """Give the body to `protocol`; what has come meanwhile was kept."""
        self._stream.attach(protocol)

    def setPreviousResponse(self, previous: IResponse) -> None:  # noqa: N802
        """There is none."""


def _number(text: bytes) -> int:
    if not (text.isdigit() and len(text) <= 18):
        raise ProtocolError("a header that must be a number is none")
    return int(text)
