"""The fake server over HTTP/2, each request as if it had a connection of its own."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
from h2.errors import ErrorCodes
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from fleetspeak.wire.compression import Inflater
from tests.client.comms.fakefiles import FileServer
from tests.client.comms.fakeserver import Connection, Request


class H2Server(FileServer):
    """Answers as `FileServer` does."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[H2ServerConnection] = []
        """Connections."""
        self.refuse_next = 0
        """So many requests."""
        self.frames: list[int] = []
        """Sizes of the DATA frames that came."""

    def buildProtocol(self, addr: Any) -> Any:
        self.connections += 1
        return H2ServerConnection(self)


class H2ServerConnection(Protocol):
    """One connection with many requests."""

    def __init__(self, server: H2Server) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        self.exchanges: dict[int, Exchange] = {}
        self.protocol: Any = None
        self.is_over = False
        """The client has said that it closes; it may have said so behind a request, in the same bytes."""

    def connectionMade(self) -> None:
        self.server.open.append(self)
        self.h2.initiate_connection()
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        self.protocol = self.transport.negotiatedProtocol  # type: ignore[union-attr]
        events = self.h2.receive_data(data)
        self.is_over |= any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
        for event in events:
            self._take(event)
        self.flush()
        self.server.happened()

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            for exchange in self.exchanges.values():
                exchange.pump()
        elif isinstance(event, h2.events.RequestReceived):
            self._begin(event)
        else:
            exchange = self.exchanges.get(getattr(event, "stream_id", 0))
            if exchange is not None:
                self._go_on(exchange, event)

    def _begin(self, event: h2.events.RequestReceived) -> None:
        if self.server.refuse_next:
            self.server.refuse_next -= 1
            self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
        else:
            self.exchanges[event.stream_id] = Exchange(self, event.stream_id)
            self.exchanges[event.stream_id].begun(event.headers)  # type: ignore[arg-type]

    def _go_on(self, exchange: Exchange, event: Any) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.server.frames.append(len(event.data))
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            exchange.body(event.data)
        elif isinstance(event, h2.events.StreamEnded):
            exchange.ended()
        elif isinstance(event, h2.events.StreamReset):
            exchange.gone()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.open.remove(self)
        for exchange in self.exchanges.values():
            exchange.gone()
        self.server.happened()

    def flush(self) -> None:
        assert self.transport is not None
        self.transport.write(self.h2.data_to_send())


class Exchange(Connection):
    """One request and its response."""

    def __init__(self, connection: H2ServerConnection, number: int) -> None:
        super().__init__(connection.server)
        self.connection = connection
        self.number = number
        self.transport = connection.transport
        self._outgoing = bytearray()
        self._last = False
        self.is_gone = False

    # ---- what the test says

    def send_raw(self, data: bytes) -> None:
        self._outgoing += data
        self.pump()

    def begin_answer(self) -> None:
        if self.connection.is_over:
            return
        self.connection.h2.send_headers(self.number, [(":status", "200")])

    def respond(self, status: int, body: bytes, headers: str = "", *, cut: int | None = None) -> None:
        if self.connection.is_over:
            return
        lines = [line.split(": ", 1) for line in headers.split("\r\n") if line]
        pairs = [(name.lower(), value) for name, value in lines]
        if status != 304:
            pairs.append(("content-length", str(len(body))))
        self.connection.h2.send_headers(self.number, [(":status", str(status)), *pairs])
        self._outgoing += body[:cut]
        self._last = cut is None
        self.pump()
        if cut is not None:
            self.connection.h2.reset_stream(self.number)
        self.connection.flush()

    def close(self) -> None:
        self._last = True
        self.pump()

    def reset(self, code: int = 0) -> None:
        """End it with an error."""
        self.connection.h2.reset_stream(self.number, code)
        self.connection.flush()

    def pump(self) -> None:
        """Send what may be sent."""
        h2 = self.connection.h2
        if self.is_gone or self.connection.is_over:
            return
        while self._outgoing:
            size = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size, len(self._outgoing))
            if size <= 0:
                break
            h2.send_data(self.number, bytes(self._outgoing[:size]))
            del self._outgoing[:size]
        if self._last and not self._outgoing:
            self._last = False
            self.is_gone = True
            h2.end_stream(self.number)
        self.connection.flush()

    # ---- what comes

    def begun(self, headers: list[tuple[str, str]]) -> None:
        """The head."""
        named = dict(headers)
        self.request = Request(f"{named[':method']} {named[':path']} HTTP/2", named, self._client_id(), headers)
        self.server.requests.append(self.request)
        self._inflater = Inflater() if named.get("content-encoding") == "deflate" else None

    def body(self, data: bytes) -> None:
        """A piece of it."""
        assert self.request is not None
        if "/streaming-message" in self.request.line:
            self._take_piece(self.request, data)
        else:
            self._body += data

    def ended(self) -> None:
        """The request is complete."""
        assert self.request is not None
        if "/streaming-message" in self.request.line:
            self._end_of_body(self.request)
            self.close()
        elif self.request.line.startswith("GET"):
            self.server.serve_file(self, self.request)
        else:
            self._answer_poll(self.request, self._body)

    def gone(self) -> None:
        """The client is not interested any more."""
        self.is_gone = True
        self.connectionLost()
