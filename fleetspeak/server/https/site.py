"""What is served at which path."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory

from fleetspeak.errors import ProtocolError
from fleetspeak.records import ClientPoll
from fleetspeak.server.contact.identify import Identity, identify
from fleetspeak.server.https.body import MAX_BODY, is_known_encoding
from fleetspeak.server.https.context import Context
from fleetspeak.server.https.files import PREFIX, FileServer
from fleetspeak.server.https.poll import Poll
from fleetspeak.server.https.stream import Stream
from fleetspeak.server.https.streamrequest import BodyHandler, StreamedRequest, StreamingChannel
from fleetspeak.server.stats.meter import POLL, STREAM_START

MESSAGE = b"/message"
STREAMING_MESSAGE = b"/streaming-message"


class Site(ServerFactory):
    """Makes a channel of each connection, and finds the handler of each request."""

    noisy = False

    def __init__(self, context: Context, *, streaming: bool = True, files: FileServer | None = None) -> None:
        self._files = files
        self._context = context
        self._paths: dict[bytes, type[Poll] | type[Stream]] = {MESSAGE: Poll}
        if streaming:
            self._paths[STREAMING_MESSAGE] = Stream
        self._channels: set[StreamingChannel] = set()
        self._waiters: list[Deferred[None]] = []
        self.is_ready = False
        """Contacts are taken; the frontend sets it."""

    # -- connections

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        return StreamingChannel(self, self._context.clock)

    def connected(self, channel: StreamingChannel) -> None:
        """A connection begins."""
        self._channels.add(channel)
        self._context.stats.connections_changed(len(self._channels))

    def disconnected(self, channel: StreamingChannel) -> None:
        """A connection is gone."""
        self._channels.discard(channel)
        self._context.stats.connections_changed(len(self._channels))
        if not self._channels:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.called:
                    waiter.callback(None)

    def log(self, request: StreamedRequest) -> None:
        """There is no access log."""

    # -- stopping

    def drain(self) -> Deferred[None]:
        """Take no more contacts, and end what is under way in good order.  Fires when no connection is left."""
        self.is_ready = False
        for channel in list(self._channels):
            channel.drain()
        waiter: Deferred[None] = Deferred()
        if self._channels:
            self._waiters.append(waiter)
        else:
            waiter.callback(None)
        return waiter

    def abort(self) -> None:
        """Close what is left."""
        for channel in list(self._channels):
            channel.abort()

    # -- requests

    def route(self, request: StreamedRequest) -> BodyHandler | None:
        """Find the handler for a request whose headers are complete; None if it is answered already."""
        kind = self._paths.get(request.path)
        if kind is None:
            if request.path.startswith(PREFIX):
                return self._route_file(request)
            request.refuse(404, "404 page not found")
            return None
        encoding = request.header("Content-Encoding").lower()
        try:
            refusal = self._check(request, encoding)
            if refusal is None:
                return kind(request, identity_of(request), encoding, self._context)
            code, text = refusal
        except ProtocolError as error:
            code, text = 400, str(error)
        self._context.stats.client_poll(ClientPoll(POLL if kind is Poll else STREAM_START, code))
        self._context.refusals.refuse(request, None, code, text)
        return None

    def _route_file(self, request: StreamedRequest) -> BodyHandler | None:
        if not self.is_ready:
            self._context.refusals.refuse(request, None, 500, "Server not ready.")
        elif self._files is not None:
            return self._files.route(request)
        else:
            request.refuse(404, "file not found")
        return None

    def _check(self, request: StreamedRequest, encoding: str) -> tuple[int, str] | None:
        """Status and text for a request that is refused whoever sends it."""
        if not is_known_encoding(encoding):
            return 415, f"unsupported content encoding: {encoding}"
        if not self.is_ready:
            return 500, "Server not ready."
        if request.method != b"POST":
            return 400, f"{request.method.decode('ascii', 'replace')} not supported"
        length = request.content_length
        if request.path == MESSAGE and length is not None and length > MAX_BODY:
            return 400, f"content length too large: {length}"
        return None


def identity_of(request: StreamedRequest) -> Identity:
    """Worked out once for each connection.  Raises ProtocolError."""
    channel = request.channel
    if channel.identity is None:
        channel.identity = identify(request.peer_certificates())
    return channel.identity
