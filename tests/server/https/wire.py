"""A site in memory, and a client's end of its connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from fleetspeak.interfaces import IAuthorizer, IServerStats
from fleetspeak.pb import common
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.https.context import Context, StreamTimes
from fleetspeak.server.https.refusals import Refusals
from fleetspeak.server.https.site import Site
from fleetspeak.server.https.streamrequest import StreamingChannel
from fleetspeak.wire import streamframes
from tests.server.contact.world import World, identity

PEER = IPv4Address("TCP", "192.0.2.7", 4242)


class Response(NamedTuple):
    """One response, as far as it has come."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


class Connection:
    """One connection to a site, whose client's certificate was seen already."""

    def __init__(self, site: Site, who: Identity | None) -> None:
        self.channel: StreamingChannel = site.buildProtocol(PEER)
        self.channel.identity = who
        self.transport = StringTransport(peerAddress=PEER)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Bytes from the client."""
        self.channel.dataReceived(data)

    def post(self, path: str, body: bytes = b"", method: str = "POST", headers: dict[str, str] | None = None) -> None:
        """A request with a length."""
        lines = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(head.encode() + b"\r\n" + body)

    def begin_stream(self, path: str = "/streaming-message", **headers: str) -> None:
        """The head of a stream, as upstream's clients send it."""
        lines = {"Host": "localhost", "Connection": "close", "Transfer-Encoding": "chunked", "Expect": "100-continue"}
        lines.update({name.replace("_", "-"): value for name, value in headers.items()})
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(head.encode() + b"\r\n")

    def chunk(self, data: bytes) -> None:
        """A piece of a chunked body; an empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def lose(self) -> None:
        """The client goes away."""
        self.channel.connectionLost(Failure(ConnectionDone()))

    @property
    def is_closed(self) -> bool:
        """The server has closed its side."""
        return self.transport.disconnecting

    @property
    def is_paused(self) -> bool:
        """The server does not read."""
        return self.transport.producerState == "paused"

    @property
    def output(self) -> bytes:
        """All that came, without the interim response."""
        return self.transport.value().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def said_continue(self) -> bool:
        return self.transport.value().startswith(b"HTTP/1.1 100 Continue\r\n\r\n")

    def responses(self) -> list[Response]:
        """All responses."""
        found, data = [], self.output
        while data:
            response, data = _take_response(data)
            found.append(response)
        return found

    def response(self) -> Response:
        """The only response."""
        (response,) = self.responses()
        return response

    def records(self) -> list[common.ContactData]:
        """What came on the stream."""
        response = self.response()
        assert response.status == 200, response
        decoder = streamframes.Decoder(streamframes.MAX_SERVER_RECORD)
        return [common.ContactData.FromString(body) for body in decoder.feed(response.body)]


class Server:
    """A site on a pipeline in memory."""

    def __init__(
        self,
        authorizer: IAuthorizer | None = None,
        streaming: bool = True,
        collectors: Sequence[IServerStats] = (),
        **times: float,
    ) -> None:
        self.world = World(authorizer, collectors)
        self.clock = self.world.clock
        self.context = Context(
            self.world.contacts,
            self.clock,
            Refusals(self.clock, stats=self.world.stats),
            times=StreamTimes(**{"jitter": 0.0, **times}),
            uniform=lambda: 0.5,
            stats=self.world.stats,
        )
        self.site = Site(self.context, streaming=streaming)
        self.site.is_ready = True

    def connect(self, name: str = "alice") -> Connection:
        return Connection(self.site, identity(name))

    def poll(self, wrapped: common.WrappedContactData, **headers: str) -> Response:
        """One poll on a connection of its own."""
        connection = self.connect()
        connection.post("/message", wrapped.SerializeToString(), headers=headers)
        return connection.response()


def stream_start(*records: common.WrappedContactData) -> bytes:
    """The beginning of a stream's body."""
    return streamframes.MAGIC + b"".join(map(record, records))


def record(wrapped: common.WrappedContactData) -> bytes:
    """One record of a client."""
    return streamframes.encode(wrapped.SerializeToString())


def acks(records: Sequence[common.ContactData]) -> list[int]:
    """The acks among these records."""
    return [one.ack_index for one in records if one.ack_index]


def _take_response(data: bytes) -> tuple[Response, bytes]:
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    status = int(status_line.split(" ")[1])
    if headers.get("Transfer-Encoding") == "chunked":
        body, complete, rest = _take_chunks(rest)
    else:
        length = int(headers["Content-Length"])
        body, rest = rest[:length], rest[length:]
        complete = len(body) == length
    return Response(status, headers, body, complete), rest


def _take_chunks(data: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while data:
        size_line, _, data = data.partition(b"\r\n")
        size = int(size_line, 16)
        if size == 0:
            return body, True, data[2:]
        body, data = body + data[:size], data[size + 2 :]
    return body, False, b""
