"""Bodies of requests and responses: whole ones of bounded size, and the endless one of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from fleetspeak.errors import TooLarge


@implementer(IBodyProducer)
class WholeBody:
    """A request body that is there at once."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:  # noqa: N802
        """Nothing to pause: all of it was written."""

    def resumeProducing(self) -> None:  # noqa: N802
        """Nothing to go on with: all of it was written."""

    def stopProducing(self) -> None:  # noqa: N802
        """Nothing to stop: all of it was written."""


class _Collector(Protocol):
    """Keeps a response's body, up to a limit."""

    def __init__(self, limit: int, collected: Deferred[bytes]) -> None:
        self._limit = limit
        self._collected = collected
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._size += len(data)
        if self._size > self._limit:
            self._pieces.clear()
            self._end(Failure(TooLarge(f"answer of more than {self._limit} bytes")))  # type: ignore[no-untyped-call]
            self.drop()
        else:
            self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self._end(b"".join(self._pieces))
        else:
            self._end(reason)

    def drop(self) -> None:
        """The rest is of no interest: close the connection."""
        if self.transport is not None:
            self.transport.loseConnection()

    def _end(self, outcome: bytes | Failure) -> None:
        if not self._collected.called:
            self._collected.callback(outcome)  # a Failure makes it fail


def read_body(response: IResponse, limit: int) -> Deferred[bytes]:
    """The whole body.  Fails with TooLarge beyond `limit` bytes; cancelling drops the connection."""
    collected: Deferred[bytes] = Deferred(lambda _: collector.drop())
    collector = _Collector(limit, collected)
    response.deliverBody(collector)  # type: ignore[no-untyped-call]
    return collected


@implementer(IBodyProducer)
class EndlessBody:
    """The request body of a stream: pieces are added for as long as it lives."""

    length = UNKNOWN_LENGTH

    def __init__(self, first: bytes, on_drained: Callable[[], None]) -> None:
        """@param first: is sent as soon as there is a connection.

        @param on_drained: called whenever the transport takes more again after it was full.
        """
        self._first = first
        self._on_drained = on_drained
        self._consumer: Any = None
        self._ended: Deferred[None] = Deferred(lambda _: None)
        self.full = False
        """The transport holds more than it could send; adding now only fills memory."""

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802
        self._consumer = consumer
        consumer.write(self._first)
        self._first = b""
        return self._ended

    def pauseProducing(self) -> None:  # noqa: N802
        self.full = True

    def resumeProducing(self) -> None:  # noqa: N802
        self.full = False
        self._on_drained()

    def stopProducing(self) -> None:  # noqa: N802
        self._consumer = None

    def add(self, data: bytes) -> None:
        """Send more."""
        if self._consumer is not None:
            self._consumer.write(data)

    def end(self) -> None:
        """The request is complete."""
        if not self._ended.called:
            self._ended.callback(None)

    def abort(self) -> None:
        """Close the connection without waiting for what was not sent."""
        transport = getattr(self._consumer, "transport", None)
        self._consumer = None
        if transport is not None:
            transport.abortConnection()
