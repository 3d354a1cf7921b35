"""HTTP requests whose body is seen while it arrives.

This is the one file that knows private names of `twisted.web.http`, which has no public way to see a body before it
is complete, or to write while it still comes.  `tests/server/https/test_streamrequest.py` fails when Twisted renames
one of them.  What there is to know:

- method, path and version are given to a request only behind its body; until then they are ``_command``, ``_path``
  and ``_version`` of the channel;
- ``clientproto`` must be set before the first write, or the response is not chunked;
- the timer of a channel is reset by every byte that arrives, so it cannot limit a slow sender: ``timeOut`` is None
  here, which turns it off, and `StreamingChannel.setTimeout` sets a deadline of our own;
- a body of 100,000 bytes, and every chunked one, would go to a temporary file (``Request.content``); here none does;
- when a response ends before the body, the rest of the body must not be parsed any more: `HTTPChannel` would look
  for a request that is gone.
"""

# The names are those of what is overridden here, and so is the lack of types.
# ruff: noqa: N802, N815
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.x509 import Certificate
from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener, ISSLTransport
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from fleetspeak.errors import ProtocolError

if TYPE_CHECKING:
    from fleetspeak.server.contact.identify import Identity

HANDSHAKE_LIMIT = 10.0
"""Seconds from accept to the end of the TLS handshake."""
HEADER_LIMIT = 10.0
"""Seconds from a request's first byte to the end of its headers."""
REQUEST_LIMIT = 20 * 60.0
"""Seconds that a slow reader has for a response."""
KEEP_ALIVE_LIMIT = 30.0
"""Seconds of silence between two requests."""
LINGER_LIMIT = 10.0
"""Seconds that a peer has to close its side once we have closed ours."""
MAX_HEADER_BYTES = 64 * 1024
"""Ours: forty times what a client's certificate takes as a header."""
MAX_HEADERS = 100

_TOO_LARGE_HEADER = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class BodyHandler(Protocol):
    """Handles one request.  After the response is finished it is not called any more."""

    def body_received(self, data: bytes) -> None:
        """A piece of the body."""

    def body_ended(self) -> None:
        """The body is complete."""

    def body_failed(self, error: ProtocolError) -> None:
        """The body cannot be read any further."""

    def connection_lost(self) -> None:
        """The peer is gone."""

    def deadline_passed(self) -> None:
        """The time that was set by `StreamedRequest.set_deadline` is over."""

    def writing_paused(self) -> None:
        """The peer reads more slowly than we write."""

    def writing_resumed(self) -> None:
        """It has caught up."""

    def drain(self) -> None:
        """The server stops: come to an end."""


class Router(Protocol):
    """The site, as a channel needs it."""

    def route(self, request: StreamedRequest) -> BodyHandler | None:
        """Find the handler for a request whose headers are complete, which sets a deadline; or answer it at once."""

    def connected(self, channel: StreamingChannel) -> None:
        """A connection begins."""

    def disconnected(self, channel: StreamingChannel) -> None:
        """A connection is gone."""

    def log(self, request: StreamedRequest) -> None:
        """A request is finished (Twisted's hook for access logs)."""


class StreamedRequest(http.Request):
    """One request."""

    channel: StreamingChannel
    handler: BodyHandler | None = None
    content_length: int | None = 0
    """Of the body, as announced; None if it comes in chunks."""
    _begun = False

    # -- for handlers

    def header(self, name: str) -> str:
        """The first value of a header, or the empty string; whatever is not ASCII is escaped."""
        values = self.requestHeaders.getRawHeaders(name.encode())
        return values[0].decode("ascii", "backslashreplace") if values else ""

    def peer_certificates(self) -> Sequence[Certificate]:
        """What the peer presented, leaf first.  Raises ProtocolError if this is not TLS."""
        return self.channel.peer_certificates()

    def reply(self, body: bytes, content_type: bytes = b"application/octet-stream") -> None:
        """Answer with a complete body; without effect if the peer is gone."""
        if self.is_over:
            return
        self.responseHeaders.setRawHeaders(b"Date", [http.datetimeToString()])  # by which clients see how clocks differ
        self.responseHeaders.setRawHeaders(b"Content-Type", [content_type])
        self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        self.write(body)
        self.finish()

    def refuse(self, code: int, text: str) -> None:
        """Answer with an error; without effect if an answer was begun or the peer is gone."""
        if self.startedWriting or self.is_over:
            return
        self.setResponseCode(code)
        self.responseHeaders.setRawHeaders(b"X-Content-Type-Options", [b"nosniff"])
        if not self.channel.body_is_complete:
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        self.reply(text.encode() + b"\n", b"text/plain; charset=utf-8")

    def begin_reply(self, code: int, headers: Iterable[tuple[str, str]]) -> None:
        """Begin an answer whose body is given to `send`; without effect if the peer is gone."""
        if self.is_over:
            return
        self.setResponseCode(code)
        self.responseHeaders.setRawHeaders(b"Date", [http.datetimeToString()])
        for name, value in headers:
            self.responseHeaders.setRawHeaders(name.encode(), [value.encode("ascii", "backslashreplace")])
        self.write(b"")

    def finish_reply(self) -> None:
        """The body is complete; without effect if the peer is gone."""
        if not self.is_over:
            self.finish()

    def send(self, data: bytes) -> None:
        """Write a piece of the response; without effect if the peer is gone."""
        if not self.is_over:
            self.write(data)

    def end(self) -> None:
        """End the response and, soon, the connection; without effect if that is so already."""
        if not self.is_over:
            channel = self.channel
            channel.persistent = False
            self.finish()
            channel.setTimeout(LINGER_LIMIT)

    def set_deadline(self, seconds: float) -> None:
        """Have the handler's `deadline_passed` called then, instead of at the time set before."""
        if not self.is_over:
            self.channel.setTimeout(seconds)

    def pause_reading(self) -> None:
        """Let nothing more arrive; at most what is on its way through TLS still does."""
        if not self.is_over:
            self.channel.hold()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if not self.is_over:
            self.channel.unhold()

    @property
    def is_over(self) -> bool:
        """The response is finished, or there is nobody to read it."""
        return bool(self.finished) or self._disconnected

    # -- called by the channel

    def begin(self, method: bytes, uri: bytes, version: bytes, length: int | None) -> None:
        """The headers are complete."""
        self._begun = True
        self.method, self.uri, self.clientproto = method, uri, version
        self.path = uri.split(b"?", 1)[0]
        self.content_length = length
        self.handler = self.channel.site.route(self)

    def parseCookies(self) -> None:
        """No client sends any."""

    def gotLength(self, length: int | None) -> None:
        """No file is made for the body."""

    def handleContentChunk(self, data: bytes) -> None:
        if self.handler is not None:  # else it is answered already
            self.handler.body_received(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if not self._begun:
            self.begin(command, path, version, 0)  # there is no body
        if self.handler is not None:
            self.handler.body_ended()

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        handler, self.handler = self.handler, None
        if handler is not None:
            handler.connection_lost()


@implementer(IHandshakeListener)
class StreamingChannel(http.HTTPChannel):
    """One HTTP/1.1 connection.

    Its timer is a deadline, for the handshake, the headers, the request, the silence between requests and the
    closing, in turn.
    """

    requestFactory = StreamedRequest
    requests: list[StreamedRequest]
    MAX_LENGTH = MAX_HEADER_BYTES
    totalHeadersSize = MAX_HEADER_BYTES
    maxHeaders = MAX_HEADERS
    timeOut = None
    transport: Any

    identity: Identity | None = None
    """For whoever works out who the peer is: it stays the same for the whole connection."""
    _deadline = 0.0
    _timer: IDelayedCall | None = None
    _head = b""
    _silent = True
    """Between two requests, without a byte of the next one."""
    _closing = False
    _draining = False
    _held = False

    def __init__(self, site: Router, clock: Any) -> None:
        super().__init__()
        self.site = site
        self.factory = site
        self._clock = clock

    @property
    def _handler(self) -> BodyHandler | None:
        """The current request's."""
        return self.requests[0].handler if self.requests else None

    @property
    def _is_ending(self) -> bool:
        return self._closing or self._draining

    # -- the life of the connection

    def connectionMade(self) -> None:
        super().connectionMade()
        self.setTimeout(HANDSHAKE_LIMIT)
        self.site.connected(self)

    def handshakeCompleted(self) -> None:
        self.setTimeout(HEADER_LIMIT)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # it is always given
        self.site.disconnected(self)
        super().connectionLost(reason)

    def loseConnection(self) -> None:
        """Close once everything is written; what still arrives is thrown away."""
        if self._is_ending:
            return
        self._flush_head()
        if self._waitingForTransport:
            self._draining = True
            self.setTimeout(REQUEST_LIMIT)
        else:
            self._close()

    def _close(self) -> None:
        self._closing = True
        self.transport.resumeProducing()  # or the peer's own closing would not be seen
        self.setTimeout(LINGER_LIMIT)
        super().loseConnection()

    def drain(self) -> None:
        """The server stops: come to an end."""
        self.persistent = False
        if (handler := self._handler) is not None:
            handler.drain()
        else:
            self.loseConnection()

    def abort(self) -> None:
        """Close at once, whatever is still to be written."""
        self._closing = True
        self.transport.abortConnection()

    def setTimeout(self, period: float | None) -> None:
        """Set the deadline `period` seconds from now, or take it away.

        The timer is left alone if it fires no later than that, and then set for what is left: a connection with one
        poll after the other needs it only now and then.
        """
        if period is None:
            self._cancel_timer()
            return
        self._deadline = self._clock.seconds() + period
        if self._timer is None or self._timer.getTime() > self._deadline:
            self._cancel_timer()  # moving it forward would make the reactor search through all its timers
            self._timer = self._clock.callLater(period, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        left = self._deadline - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._check_deadline)
        else:
            self.timeoutConnection()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def timeoutConnection(self) -> None:
        if self._is_ending:
            self.abort()
        elif (handler := self._handler) is not None:
            handler.deadline_passed()
        else:
            self.loseConnection()

    # -- reading

    def dataReceived(self, data: bytes) -> None:
        if self._is_ending:
            return
        was_silent, self._silent = self._silent, False
        LineReceiver.dataReceived(self, data)
        if was_silent and not (self._silent or self._handler or self._is_ending):
            self.setTimeout(HEADER_LIMIT)

    def lineReceived(self, line: bytes) -> None:
        if self._is_ending:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.lineLengthExceeded(line)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.transport.write(_TOO_LARGE_HEADER)
        self.loseConnection()

    def allHeadersReceived(self) -> None:
        if self._is_ending:
            return
        if self.length != 0:
            self.persistent = self.checkPersistence(self.requests[-1], self._version)
            self.requests[-1].begin(self._command, self._path, self._version, self.length)
        if not self._is_ending:
            super().allHeadersReceived()  # says 100-continue if that is awaited

    def allContentReceived(self) -> None:
        if self.requests and not self._is_ending:
            super().allContentReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if (handler := self._handler) is not None:
            handler.body_failed(ProtocolError("malformed chunk"))
        elif not self._is_ending:
            super()._respondToBadRequestAndDisconnect()

    @property
    def body_is_complete(self) -> bool:
        """The current request's."""
        return self._handlingRequest

    def hold(self) -> None:
        """Stop reading."""
        self._held = True
        self.transport.pauseProducing()

    def unhold(self) -> None:
        """Read again, unless our own writing has to catch up first."""
        self._held = False
        if not self._waitingForTransport:
            self.transport.resumeProducing()

    def peer_certificates(self) -> Sequence[Certificate]:
        """What the peer presented, leaf first.  Raises ProtocolError if this is not TLS."""
        transport = self.transport
        if ISSLTransport(transport, None) is None:
            raise ProtocolError("TLS information not found")
        connection: SSL.Connection = transport.getHandle()
        leaf = connection.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            return ()
        return (leaf, *(connection.get_peer_cert_chain(as_cryptography=True) or ()))

    # -- writing

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """Keep the head until the first bytes of the body, so that both travel together."""
        lines = [b"%s %s %s" % (version, code, reason)]
        lines += [b"%s: %s" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self._head = b"\r\n".join(lines) + b"\r\n\r\n"

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        self.transport.write(data)

    def writeSequence(self, iovec: Sequence[bytes]) -> None:
        self.write(b"".join(iovec))

    def _flush_head(self) -> None:
        if self._head:
            self.write(b"")

    def requestDone(self, request: StreamedRequest) -> None:
        self._flush_head()
        request.handler = None
        if not self.body_is_complete:
            self.persistent = False
        self._held = False
        if self.persistent:
            self._silent = True
            self.setTimeout(REQUEST_LIMIT if self._waitingForTransport else KEEP_ALIVE_LIMIT)
        super().requestDone(request)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if (handler := self._handler) is not None:
            handler.writing_paused()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._draining:
            self._draining = False
            self._close()
        elif self._silent:
            self.setTimeout(KEEP_ALIVE_LIMIT)
        elif self._held:
            self.transport.pauseProducing()  # Twisted has just resumed it
        if (handler := self._handler) is not None:
            handler.writing_resumed()


def show_address(address: IAddress) -> str:
    """A peer as ``ip:port``, IPv6 in brackets; an IPv4 peer of an IPv6 listener as IPv4."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None or port is None:
        return str(address)
    if ":" not in host:
        return f"{host}:{port}"
    plain = host.removeprefix("::ffff:")
    return f"{plain}:{port}" if "." in plain and ":" not in plain else f"[{host}]:{port}"
