"""One HTTP/1.1 request whose answer begins before its body ends.

`twisted.web.client.Agent` gives the response only when the request is written completely, which for a stream is
never.  So the request is written here, and the response read by the parser that the Agent uses too.  That parser
has a private name: this is the one module of the client that knows it, and a test fails if Twisted renames it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import HTTPClientParser, Request, TransportProxyProducer
from twisted.web.http import toChunk
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse
from zope.interface import implementer

PARTING = 5.0
"""Seconds that the server has to close its side of a connection that is done."""


@implementer(IPushProducer)
class HttpStream(Protocol):
    """A connection that carries one chunked request and its response, at the same time."""

    def __init__(
        self,
        host: str,
        path: str,
        headers: Iterable[tuple[bytes, Sequence[bytes]]],
        on_drained: Callable[[], None],
        clock: IReactorTime,
    ) -> None:
        """@param host: for the Host header, ``name:port``.

        @param on_drained: called whenever the transport takes more again after it was full.
        """
        self._head = _request_head(host, path, headers)
        self._on_drained = on_drained
        self._clock = clock
        self._parting: IDelayedCall | None = None
        self._ended = False
        request = Request._construct(b"POST", path.encode("ascii"), Headers({"Host": [host]}), None)  # type: ignore[no-untyped-call]
        self._parser: Any = HTTPClientParser(request, self._response_complete)  # type: ignore[no-untyped-call]
        self.response: Deferred[IResponse] = self._parser._responseDeferred
        """Fires with the head of the response."""
        self.full = False
        """The transport holds more than it could send; writing now only fills memory."""

    def connectionMade(self) -> None:  # noqa: N802
        assert self.transport is not None
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]
        self.transport.write(self._head)
        self._parser.makeConnection(TransportProxyProducer(self.transport))  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._parser is None:
            return
        try:
            self._parser.dataReceived(data)
        except Exception:  # whatever the bytes were, they were no HTTP: only this connection is lost
            self.connectionLost(Failure())  # type: ignore[no-untyped-call]
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._ended = True
        if self._parting is not None and self._parting.active():
            self._parting.cancel()
        parser, self._parser = self._parser, None
        if parser is not None:
            parser.connectionLost(reason)

    def _response_complete(self, rest: bytes) -> None:
        """The response has ended, and with it the connection, whatever else might come."""
        self.connectionLost()

    def pauseProducing(self) -> None:  # noqa: N802
        self.full = True

    def resumeProducing(self) -> None:  # noqa: N802
        self.full = False
        self._on_drained()

    def stopProducing(self) -> None:  # noqa: N802
        self._ended = True

    def write(self, data: bytes) -> None:
        """Send more of the request's body."""
        if not self._ended and self.transport is not None:
            self.transport.writeSequence(toChunk(data))

    def end(self) -> None:
        """The request is complete; close when all of it is sent, and in any case soon."""
        if not self._ended and self.transport is not None:
            self._ended = True
            self.transport.write(b"0\r\n\r\n")
            self.transport.unregisterProducer()  # type: ignore[attr-defined]
            self.transport.loseConnection()
            self._parting = self._clock.callLater(PARTING, self.abort)

    def abort(self) -> None:
        """Close the connection without waiting for what was not sent."""
        self._ended = True
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]


def _request_head(host: str, path: str, headers: Iterable[tuple[bytes, Sequence[bytes]]]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1".encode("ascii"),
        b"Host: " + host.encode("ascii"),
        b"Transfer-Encoding: chunked",
        b"Connection: close",  # without it a Go server answers only when the request has ended
    ]
    lines += [name + b": " + value for name, values in headers for value in values]
    return b"\r\n".join([*lines, b"", b""])
