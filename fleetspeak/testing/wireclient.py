"""A client that speaks the wire protocol by the letter and does only what it is told.

It is for tests and measurements of servers: plain blocking sockets and the standard library's TLS, nothing of our
own client, so that the two cannot share a mistake; and cheap, so that many of them fit into one process.  Each
object belongs to one thread.
"""

from __future__ import annotations

import select
import socket
import ssl
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fleetspeak import ids
from fleetspeak.pb import common
from fleetspeak.security import certificates, keys
from fleetspeak.wire import contact as wrapping
from fleetspeak.wire import streamframes

_READ_SIZE = 64 * 1024
_TIMEOUT = 30.0


class RefusedError(Exception):
    """The server answered with another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Identity:
    """Who a client is."""

    client_id: ids.ClientId
    certificate_and_key: str
    """PEM."""

    @classmethod
    def make(cls) -> Self:
        """A new one, with a new key."""
        key = keys.generate()
        client_id = ids.client_id_of_key(keys.public_der(key))
        certificate = certificates.client_certificate(key, client_id, time.time())
        return cls(client_id, certificates.to_pem(certificate) + certificates.key_to_pem(key))


@dataclass(frozen=True)
class Response:
    """What came back for one request."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes

    def contact_data(self) -> common.ContactData:
        """The body as contact data.  Raises RefusedError unless the status is 200."""
        if self.status != 200:
            raise RefusedError(self.status, self.body.decode(errors="replace").strip())
        return wrapping.parse(self.body)


class Connection:
    """One TLS connection.  Whatever goes wrong with it is an OSError (a closed one: ConnectionError)."""

    def __init__(
        self, address: tuple[str, int], trusted_pem: str, identity: Identity | None, timeout: float = _TIMEOUT
    ) -> None:
        """Connect.

        @param address: host, which is also the name the server's certificate must have, and port.
        @param trusted_pem: the authority's certificate.
        @param identity: None for a connection that shows no certificate.
        @param timeout: seconds that any later read or write may take.
        """
        self._host = address[0]
        plain = socket.create_connection(address, timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = _tls(trusted_pem, identity).wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """For selectors; data may be waiting in the TLS layer even if the socket has none."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def wait(self, seconds: float) -> bool:
        """Whether something comes (the end included) within that time."""
        if self._buffer or self._socket.pending():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    # -- HTTP

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """The head of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}", *(f"{k}: {v}" for k, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
        """One request with a Content-Length and its whole answer; the connection stays open."""
        self.send(self.head(method, path, {**(headers or {}), "Content-Length": str(len(body))}) + body)
        return self.read_response()

    def poll(self, contact: common.ContactData, labels: Iterable[str] = ()) -> common.ContactData:
        """One contact by POST to /message."""
        return self.request("POST", "/message", wrapping.wrap(contact, labels)).contact_data()

    def read_response(self) -> Response:
        """The next response with its body."""
        status, headers = self.read_head()
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b"".join(iter(self.read_chunk, b""))
        elif "content-length" in headers:
            body = self._read_exactly(int(headers["content-length"]))
        else:
            body = self.read_to_end()
        return Response(status, headers, body)

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the next response, passing over any ``100 Continue``."""
        while True:
            lines = self._read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ", 2)[1])
            if status != 100:
                pairs = (line.split(":", 1) for line in lines[1:] if line)
                return status, {name.lower(): value.strip() for name, value in pairs}

    def read_chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        size = int(self._read_until(b"\r\n").split(b";")[0], 16)
        chunk = self._read_exactly(size)
        self._read_exactly(2)
        return chunk

    def _read_until(self, end: bytes) -> bytes:
        while (found := self._buffer.find(end)) < 0:
            self._fill()
        data, self._buffer = self._buffer[:found], self._buffer[found + len(end) :]
        return data

    def _read_exactly(self, size: int) -> bytes:
        if len(self._buffer) < size:
            parts = [self._buffer]
            missing = size - len(self._buffer)
            while missing > 0:
                parts.append(self._receive())
                missing -= len(parts[-1])
            self._buffer = b"".join(parts)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_to_end(self) -> bytes:
        """All that still comes until the server closes the connection."""
        try:
            while True:
                self._fill()
        except ConnectionError:
            data, self._buffer = self._buffer, b""
            return data

    def _fill(self) -> None:
        self._buffer += self._receive()

    def _receive(self) -> bytes:
        data = self._socket.recv(_READ_SIZE)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


class Stream:
    """One stream on a connection of its own, opened by its first contact."""

    def __init__(self, connection: Connection, first: common.ContactData, labels: Iterable[str] = ()) -> None:
        """Open it.  Raises RefusedError if the server answers with anything but 200."""
        self._connection = connection
        self._decoder = streamframes.Decoder(streamframes.MAX_SERVER_RECORD)
        self._records: deque[common.ContactData] = deque()
        self._labels = tuple(labels)
        self._sent = 0
        headers = {"Transfer-Encoding": "chunked", "Connection": "close"}
        connection.send(connection.head("POST", "/streaming-message", headers))
        self.send_bytes(streamframes.MAGIC + streamframes.encode(wrapping.wrap(first, self._labels)))
        status, answered = connection.read_head()
        if status != 200:
            length = int(answered.get("content-length", "0"))
            raise RefusedError(status, connection._read_exactly(length).decode(errors="replace").strip())
        self.opening = self.receive()
        """What the server answered to the first contact."""

    def send(self, contact: common.ContactData) -> int:
        """Send one record; returns the ack_index that will confirm it."""
        self.send_bytes(streamframes.encode(wrapping.wrap(contact, self._labels)))
        self._sent += 1
        return self._sent

    def send_bytes(self, data: bytes) -> None:
        """Send bytes of the body as they are."""
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, seconds: float) -> bool:
        """Whether something comes (the end included) within that time."""
        return bool(self._records) or self._connection.wait(seconds)

    def receive(self) -> common.ContactData:
        """The next record of the server.  Raises ConnectionError at the end of the stream."""
        while not self._records:
            chunk = self._connection.read_chunk()
            if not chunk:
                raise ConnectionError("the server ended the stream")
            self._records.extend(map(wrapping.parse, self._decoder.feed(chunk)))
        return self._records.popleft()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _tls(trusted_pem: str, identity: Identity | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=trusted_pem)
    if identity is not None:
        # The standard library reads certificates from files only.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "identity.pem"
            path.write_text(identity.certificate_and_key)
            context.load_cert_chain(path)
    return context
