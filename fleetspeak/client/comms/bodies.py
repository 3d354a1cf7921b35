"""Bodies of requests and responses that are there as a whole, and of bounded size."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer, IResponse
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
        self._body = bytearray()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if len(self._body) + len(data) > self._limit:
            self._body.clear()
            self._limit = 0
            self._end(Failure(TooLarge(f"answer of more than {self._limit} bytes")))  # type: ignore[no-untyped-call]
            self.drop()
        else:
            self._body += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self._end(bytes(self._body))
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
