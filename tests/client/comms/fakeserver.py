"""A small server for tests of communicators: real bytes, real TLS if wanted, and it does what the test says.

It shares no HTTP code with our client or server, so that they cannot share a mistake.  It wants a client certificate
but does not verify it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.x509 import Certificate
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from fleetspeak.ids import ClientId, client_id_of_key
from fleetspeak.pb import common
from fleetspeak.security import certificates, keys
from fleetspeak.security.tls import server_options
from fleetspeak.wire import contact as wire_contact
from fleetspeak.wire import streamframes
from fleetspeak.wire.compression import Inflater


@dataclass
class Request:
    """What came on one connection as one request."""

    line: str
    headers: dict[str, str]
    client_id: ClientId
    all_headers: list[tuple[str, str]] = field(default_factory=list)
    """With those that come several times."""
    contacts: list[common.ContactData] = field(default_factory=list)
    """One for a poll; each record of a stream."""
    labels: list[str] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    """The body as it came, chunk by chunk."""
    is_complete: bool = False
    """The body of a stream came to an orderly end."""

    @property
    def messages(self) -> list[common.Message]:
        """All messages in it."""
        return [message for contact in self.contacts for message in contact.messages]


class FakeServer(Factory):
    """Answers polls with `answer`, streams' first records with it too, and later records with acks."""

    noisy = False

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.streams: list[Connection] = []
        """Streams that are open, oldest first."""
        self.connections = 0
        """How many there ever were."""
        self.status = 200
        self.nonce = 42
        self.to_send: list[common.Message] = []
        """Go with the next answer."""
        self.acks = True
        """Acknowledge records of streams as they come."""
        self.on_first: Callable[[Connection], None] = lambda stream: None
        """Called when the first record of a stream was answered."""
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def buildProtocol(self, addr: Any) -> Connection:
        self.connections += 1
        return Connection(self)

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as this holds; it is looked at whenever something has happened here."""
        fulfilled: Deferred[None] = Deferred()
        self._waiting.append((condition, fulfilled))
        self.happened()
        return fulfilled

    def happened(self) -> None:
        """Look whether somebody waited for it."""
        for waiting in [waiting for waiting in self._waiting if waiting[0]()]:
            self._waiting.remove(waiting)
            waiting[1].callback(None)

    @property
    def contacts(self) -> list[common.ContactData]:
        """All of them, of all requests."""
        return [contact for request in self.requests for contact in request.contacts]

    @property
    def messages(self) -> list[common.Message]:
        """All of them, of all requests."""
        return [message for contact in self.contacts for message in contact.messages]

    def serve_file(self, connection: Connection, request: Request) -> None:
        """Answer a GET; here there are no files."""
        connection.respond(404, b"file not found\n")

    def answer(self) -> common.ContactData:
        """For a poll or the first record of a stream."""
        messages, self.to_send = self.to_send, []
        return common.ContactData(sequencing_nonce=self.nonce, messages=messages)


class Connection(Protocol):
    """One connection; polls may follow each other on it, a stream has it for itself."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.request: Request | None = None
        self.acked = 0
        self._buffer = b""
        self._left = 0
        self._body = b""
        self._chunked = False
        self._inflater: Inflater | None = None
        self._decoder = streamframes.Decoder(streamframes.MAX_RECORD, expect_magic=True)

    # ---- what the test says

    def send(self, *records: common.ContactData) -> None:
        """Send records on this stream, in one chunk."""
        self.send_raw(b"".join(streamframes.encode(record.SerializeToString()) for record in records))

    def send_raw(self, data: bytes) -> None:
        """Send a chunk."""
        assert self.transport is not None
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def acknowledge(self) -> None:
        """Acknowledge the next record."""
        self.acked += 1
        self.send(common.ContactData(ack_index=self.acked))

    def respond(self, status: int, body: bytes, headers: str = "", *, cut: int | None = None) -> None:
        """Answer with a whole body, or break after the first `cut` bytes of it."""
        length = "" if "Transfer-Encoding" in headers or status == 304 else f"Content-Length: {len(body)}\r\n"
        assert self.transport is not None
        self.transport.write(f"HTTP/1.1 {status} Text\r\n{length}{headers}\r\n".encode() + body[:cut])
        if cut is not None:
            self.transport.loseConnection()

    def close(self) -> None:
        """End this connection."""
        assert self.transport is not None
        self.transport.loseConnection()

    # ---- what comes

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass
        self.server.happened()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self in self.server.streams:
            self.server.streams.remove(self)
        self.server.happened()

    def _step(self) -> bool:
        if self.request is None:
            return self._take_head()
        return self._take_chunk() if self._chunked else self._take_body()

    def _take_head(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        self._buffer = rest
        line, *lines = head.decode("ascii").split("\r\n")
        pairs = [(name.lower(), value) for name, value in (header.split(": ", 1) for header in lines)]
        headers = dict(pairs)
        self.request = Request(line, headers, self._client_id(), pairs)
        self.server.requests.append(self.request)
        if line.startswith("GET "):
            request, self.request = self.request, None
            self.server.serve_file(self, request)
            return True
        self._inflater = Inflater() if headers.get("content-encoding") == "deflate" else None
        self._chunked = headers.get("transfer-encoding") == "chunked"
        self._left = int(headers.get("content-length", "0"))
        self._body = b""
        return True

    def _client_id(self) -> ClientId:
        shown = getattr(self.transport, "getPeerCertificate", lambda: None)()
        if shown is None:
            return ClientId(b"")
        return client_id_of_key(keys.public_der(shown.to_cryptography().public_key()))

    def _take_body(self) -> bool:
        assert self.request is not None
        if len(self._buffer) < self._left:
            return False
        body, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._answer_poll(self.request, body)
        self.request = None
        return True

    def _answer_poll(self, request: Request, body: bytes) -> None:
        self._note(request, self._plain(body))
        answer = self.server.answer().SerializeToString() if self.server.status == 200 else b"no\n"
        self.respond(self.server.status, answer)

    def _take_chunk(self) -> bool:
        assert self.request is not None
        size, found, rest = self._buffer.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return False
        chunk, self._buffer = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        if not chunk:
            self._end_of_body(self.request)
            return True
        self._take_piece(self.request, chunk)
        return True

    def _take_piece(self, request: Request, piece: bytes) -> None:
        """Of a stream's body."""
        request.chunks.append(piece)
        for record in self._decoder.feed(self._plain(piece)):
            self._note(request, record)
            self._answer_record(request)

    def _end_of_body(self, request: Request) -> None:
        if self._inflater is not None:
            self._inflater.finish()
        self._decoder.finish()
        request.is_complete = True

    def begin_answer(self) -> None:
        """Send the head of a stream's response."""
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")

    def _answer_record(self, request: Request) -> None:
        if len(request.contacts) > 1:
            if self.server.acks:
                self.acknowledge()
        elif self.server.status != 200:
            self.respond(self.server.status, b"no\n")
        else:
            self.server.streams.append(self)
            self.begin_answer()
            self.send(self.server.answer())
            self.server.on_first(self)

    def _plain(self, data: bytes) -> bytes:
        return data if self._inflater is None else b"".join(self._inflater.feed(data))

    @staticmethod
    def _note(request: Request, wrapped: bytes) -> None:
        unwrapped = wire_contact.unwrap(wrapped)
        request.labels = list(unwrapped.client_labels)
        request.contacts.append(wire_contact.parse(unwrapped.contact_data))


class Listening:
    """Servers on 127.0.0.1, on ports that the kernel picks, all of one authority."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._ports: list[Any] = []
        now = time.time()
        self.authority, self._authority_key = certificates.make_authority("test", now)
        self.certificate: Certificate
        self.certificate, self._key = certificates.issue_server(
            self.authority, self._authority_key, "test", ["127.0.0.1", "localhost"], now
        )

    def listen(self, factory: Factory, *, offer_http2: bool = False) -> tuple[str, int]:
        """Serve TLS.  Returns host and port."""
        tls = server_options(
            certificates.to_pem(self.certificate), certificates.key_to_pem(self._key), offer_http2=offer_http2
        )
        return self.listen_plain(TLSMemoryBIOFactory(tls, False, factory))

    def listen_plain(self, factory: Factory) -> tuple[str, int]:
        """Serve TCP.  Returns host and port."""
        port = self._reactor.listenTCP(0, factory, interface="127.0.0.1")
        self._ports.append(port)
        return "127.0.0.1", port.getHost().port

    def dead_end(self) -> tuple[str, int]:
        """An address where nobody listens."""
        port = self._reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        address = "127.0.0.1", port.getHost().port
        port.stopListening()
        return address

    async def close(self) -> None:
        """Serve no more."""
        for port in self._ports:
            await port.stopListening()
