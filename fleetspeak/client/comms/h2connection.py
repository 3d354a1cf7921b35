"""A connection that speaks HTTP/2, around ``h2``, which is installed only with the extra ``http2``.

``h2`` knows frames, header compression and the arithmetic of flow control.  Here is what it leaves to its user: when
to read, when to write, and when to give up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from fleetspeak.client.comms.h2stream import H2Stream
from fleetspeak.errors import NotProcessed, ProtocolError
from fleetspeak.wire.h2frames import FrameFilter, GoAway

IDLE_TIMEOUT = 25.0
"""Seconds that an unused connection is kept; the server closes its side after 30."""

PING_AFTER = 60.0
"""Seconds of silence while something is asked, after which the server must show that it is there."""

PING_LIMIT = 15.0
"""Seconds that it has for that."""

STREAM_WINDOW = 1024 * 1024
"""Bytes of one response that may wait in memory."""

CONNECTION_WINDOW = 4 * STREAM_WINDOW
"""Bytes of all responses of a connection that may wait in memory, so that one that nobody reads stops no other."""

MAX_HEADERS = 64 * 1024
"""Bytes of a response's headers."""

MAX_CONTROL = 1000
"""Frames that want an answer (PING, SETTINGS) and come while the server takes nothing."""

PARTING = 1.0
"""Seconds that the server has to close its side of a connection that is done."""

_DEFAULT_WINDOW = 65535


@implementer(IPushProducer)
class H2Connection(Protocol):
    """Carries any number of requests at a time.  Whatever is wrong with it ends all of them with one clear error."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        config = h2.config.H2Configuration(client_side=True)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
            },
        )
        self._h2.decoder.max_header_list_size = MAX_HEADERS
        self.is_http2 = False
        """Has the server chosen it?  Otherwise the connection is of no use, and closed."""
        self.is_broken = False
        """Has the server chosen it, and then not spoken it?"""
        self.lost: Deferred[None] = Deferred()
        """Fires when the connection is closed."""
        self._clock = clock
        self._filter = FrameFilter()
        self._streams: dict[int, H2Stream] = {}
        self._full = False
        self._control = 0
        self._open = False
        self._retired = False
        self._has_answered = False
        self._heard = 0.0
        self._is_silent = False
        self._timer: IDelayedCall | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            h2.events.ResponseReceived: self._answered,
            h2.events.DataReceived: self._received,
            h2.events.StreamEnded: self._ended,
            h2.events.StreamReset: self._reset,
            h2.events.WindowUpdated: lambda event: self._send_all(),
            h2.events.RemoteSettingsChanged: self._settings_changed,
            h2.events.PingReceived: lambda event: self._answer_wanted(),
        }

    @property
    def is_usable(self) -> bool:
        """May a request be begun on it?"""
        return self._open and not self._retired

    def begin(
        self,
        method: str,
        authority: str,
        path: str,
        headers: Iterable[tuple[bytes, Sequence[bytes]]],
        on_drained: Callable[[], None] = lambda: None,
    ) -> H2Stream:
        """Send the head of a request whose body is written bit by bit.

        @raise NotProcessed: this connection takes none.
        """
        if not self.is_usable:
            raise NotProcessed("the connection was closed")
        if self._h2.open_outbound_streams >= self._h2.remote_settings.max_concurrent_streams:
            raise ProtocolError(f"the server takes only {len(self._streams)} requests at a time")
        head = [(b":method", method), (b":authority", authority), (b":scheme", "https"), (b":path", path)]
        lines: list[tuple[bytes, bytes]] = [(name, text.encode("ascii")) for name, text in head]
        lines += [(name.lower(), value) for name, values in headers for value in values]
        try:
            number = self._h2.get_next_available_stream_id()
            self._h2.send_headers(number, lines)
        except h2.exceptions.NoAvailableStreamIDError:
            self.retire()
            raise NotProcessed("the connection is used up") from None
        stream = self._streams[number] = H2Stream(number, self, self._clock, on_drained)
        self._flush()
        if len(self._streams) == 1:
            self._heard = self._clock.seconds()
            self._watch(PING_AFTER, self._check)
        return stream

    def request(
        self,
        method: str,
        authority: str,
        path: str,
        headers: Iterable[tuple[bytes, Sequence[bytes]]],
        body: IBodyProducer | None,
    ) -> Deferred[IResponse]:
        """Send a whole request; fires with the head of the response.  Cancelling ends it.

        @raise NotProcessed: also in the Deferred.
        """
        lines = list(headers)
        if body is not None and body.length is not UNKNOWN_LENGTH:
            lines.append((b"content-length", [b"%d" % body.length]))
        stream = self.begin(method, authority, path, lines)
        if body is None:
            stream.complete()
        else:
            producing: Deferred[None] = body.startProducing(stream)  # type: ignore[no-untyped-call]
            producing.addCallbacks(lambda _: stream.complete(), lambda _: stream.abort())
        return stream.response

    def retire(self) -> None:
        """Begin no more requests on it; close it when those that run are over."""
        self._retired = True
        if not self._streams:
            self.close()

    def close(self) -> None:
        """End it, and all requests."""
        self._fail(ProtocolError("the connection was closed"), ErrorCodes.NO_ERROR)

    # ---- as Twisted's protocol and producer

    def connectionMade(self) -> None:  # noqa: N802
        assert self.transport is not None
        self.is_http2 = getattr(self.transport, "negotiatedProtocol", None) == b"h2"
        if not self.is_http2:
            self.transport.abortConnection()  # type: ignore[attr-defined]
            return
        self._open = True
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - _DEFAULT_WINDOW)
        self._flush()
        self._watch(IDLE_TIMEOUT, self.retire)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if not self._open:
            return
        self._heard = self._clock.seconds()
        self._is_silent = False
        try:
            for piece in self._filter.feed(data):
                if isinstance(piece, GoAway):
                    self._go_away(piece)
                elif piece and self._open:
                    for event in self._h2.receive_data(piece):
                        self._handle(event)
        except Exception as error:  # whatever the bytes were: only this connection is lost
            self._misunderstood(error)
        self._flush()

    def _misunderstood(self, error: Exception) -> None:
        if self._open:
            self._log.debug("{traceback()}", traceback=Failure().getTraceback)  # type: ignore[no-untyped-call]
            self.is_broken = not self._has_answered
            what = str(error) or type(error).__name__
            self._fail(ProtocolError(f"the server does not keep to HTTP/2: {what}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._over(reason)
        self._stop_watching()
        self.lost.callback(None)

    def pauseProducing(self) -> None:  # noqa: N802
        self._full = True

    def resumeProducing(self) -> None:  # noqa: N802
        self._full = False
        self._control = 0
        self._send_all()

    def stopProducing(self) -> None:  # noqa: N802
        self._full = True

    # ---- for its streams

    def send(self, stream: H2Stream) -> None:
        """See `Carrier`."""
        number = stream.number
        if self._streams.get(number) is not stream:
            return
        try:
            while stream.outgoing and not self._full:
                size = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
                if size <= 0:
                    return
                self._h2.send_data(number, stream.take(size))
                self._flush()
            if stream.is_ending and not stream.outgoing and not stream.is_sent:
                self._h2.end_stream(number)
                stream.is_sent = True
                self._flush()
        except h2.exceptions.ProtocolError:
            pass  # its end came in the same bytes as what led here, and is the next event

    def consumed(self, stream: H2Stream, size: int) -> None:
        """See `Carrier`."""
        if self._open and size:
            self._h2.acknowledge_received_data(size, stream.number)
            self._flush()

    def cancel(self, stream: H2Stream) -> None:
        """See `Carrier`.  A server that made somebody give up gets no other request on this connection."""
        if self._streams.pop(stream.number, None) is not None and self._open:
            self._retired = True
            self._end_stream(stream.number)
            self._flush()
            self._one_less()

    # ---- events

    def _handle(self, event: Any) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None and self._open:
            handler(event)

    def _answered(self, event: h2.events.ResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._has_answered = True
            stream.answered((bytes(name), bytes(value)) for name, value in event.headers)

    def _received(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.received(event.data, event.flow_controlled_length)
        else:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _ended(self, event: h2.events.StreamEnded) -> None:
        stream = self._streams.pop(event.stream_id, None)
        if stream is not None:
            if not stream.is_sent:
                self._end_stream(stream.number)  # what is left of the request is of no interest to the server
            stream.ended(Failure(ResponseDone()))  # type: ignore[no-untyped-call]
            self._one_less()

    def _reset(self, event: h2.events.StreamReset) -> None:
        stream = self._streams.pop(event.stream_id, None)
        if stream is not None:
            error: Exception = ProtocolError(f"the server ended the request: {_name(event.error_code)}")
            if event.error_code == ErrorCodes.REFUSED_STREAM:
                error = NotProcessed("the server refused the request")
                self._retired = True
            stream.ended(Failure(error))  # type: ignore[no-untyped-call]
            self._one_less()

    def _go_away(self, notice: GoAway) -> None:
        self._retired = True
        error: Exception = NotProcessed(f"the server closes the connection: {_name(notice.error_code)}")
        for number in [number for number in self._streams if number > notice.last_stream_id]:
            stream = self._streams.pop(number, None)  # the end of another one may have ended it
            if stream is not None:
                stream.ended(Failure(error))  # type: ignore[no-untyped-call]
        if notice.error_code != ErrorCodes.NO_ERROR:
            self._fail(ProtocolError(f"the server closed the connection: {_name(notice.error_code)}"))
        elif not self._streams:
            self.close()

    def _settings_changed(self, event: h2.events.RemoteSettingsChanged) -> None:
        self._answer_wanted()
        self._send_all()

    def _answer_wanted(self) -> None:
        """The library has put an answer into the buffer, whether the server takes it or not."""
        self._control += self._full
        if self._control > MAX_CONTROL:
            raise ProtocolError("the server asks and asks, and takes no answer")

    def _send_all(self) -> None:
        for stream in list(self._streams.values()):
            self.send(stream)
            stream.drained()

    # ---- time

    def _watch(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_watching()
        self._timer = self._clock.callLater(seconds, then)

    def _stop_watching(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _check(self) -> None:
        """Is the server still there?"""
        silence = self._clock.seconds() - self._heard
        if silence < PING_AFTER:
            self._watch(PING_AFTER - silence, self._check)
        else:
            self._is_silent = True
            self._h2.ping(b"ourcheck")
            self._flush()
            self._watch(PING_LIMIT, self._check_answer)

    def _check_answer(self) -> None:
        if self._is_silent:
            self._fail(ProtocolError(f"the server has not been heard of for {PING_AFTER + PING_LIMIT:.0f} s"))
        else:
            self._watch(PING_AFTER, self._check)

    def _one_less(self) -> None:
        """A stream is over."""
        if not self._streams and self._open:
            if self._retired:
                self.close()
            else:
                self._watch(IDLE_TIMEOUT, self.retire)

    # ---- the end

    def _end_stream(self, number: int) -> None:
        with suppress(h2.exceptions.ProtocolError):  # it is over already
            self._h2.reset_stream(number, ErrorCodes.CANCEL)

    def _fail(self, error: Exception, code: ErrorCodes = ErrorCodes.PROTOCOL_ERROR) -> None:
        if not self._open or self.transport is None:
            return
        with suppress(h2.exceptions.ProtocolError):  # the library has done that by itself
            self._h2.close_connection(code)
        self._flush()
        self.transport.unregisterProducer()  # type: ignore[attr-defined]
        self.transport.loseConnection()
        self._over(Failure(error))  # type: ignore[no-untyped-call]
        self._watch(PARTING, self.transport.abortConnection)  # type: ignore[attr-defined]

    def _over(self, reason: Failure) -> None:
        self._open = False
        self._stop_watching()
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.ended(reason)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self.transport is not None and self._open:
            self.transport.write(data)


def _name(code: int | None) -> str:
    try:
        return ErrorCodes(code or 0).name
    except ValueError:
        return f"error {code}"
