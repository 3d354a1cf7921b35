"""The client's side of an HTTP/2 connection (RFC 9113) that carries small calls: one request, one response, both whole.

For a library that knows all of HTTP/2 a call costs several times what it costs here, and a server makes one for each
message. What makes the difference: a request's head is the same bytes each time, nothing is kept of a stream but what
a call needs, and a response whose head was seen before is not decoded again. Header compression itself is `hpack`'s.

No I/O: bytes come in by `receive`, and go out by `take`.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from fleetspeak.errors import ProtocolError, TooLarge

Headers = list[tuple[bytes, bytes]]

MAX_FRAME = 16384
"""Bytes of a frame's payload, in both directions: what RFC 9113 allows without being told otherwise."""

MAX_HEADERS = 64 * 1024
"""Bytes of a response's headers, before and after decompression."""

MAX_BODY = 64 * 1024
"""A response's body with its padding has to be smaller: so many bytes it may send without being told to go on."""

MAX_OWED = 1000
"""Frames that want an answer (PING, SETTINGS) between two calls of `take`."""

FIRST_CALLS = 100
"""Calls that may be under way before the server has said how many it takes."""

LAST_NUMBER = 2**31 - 1

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DEFAULT_WINDOW = 65535
_LARGEST_WINDOW = 2**31 - 1
_CONNECTION_WINDOW = 16 * 1024 * 1024
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9,
)  # fmt: skip
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_HEADER_LIST_SIZE = 1, 2, 3, 4, 6
_NO_ERROR, _REFUSED_STREAM, _CANCEL = 0, 7, 8
_DEFAULT_TABLE = 4096
_RESIZED_TO_NOTHING = b"\x20"
_head = struct.Struct(">HBBBI")


@dataclass(slots=True)
class Response:
    """What has come of a call, and at its end the whole."""

    number: int
    headers: Headers = field(default_factory=list)
    """Names and values of the head, and behind them those of the trailers."""
    body: bytes = b""
    error: str = ""
    """Not empty: it ended before its end, for this reason."""
    is_too_large: bool = False
    """That is the reason."""
    is_begun: bool = True
    """False: the server has done nothing for it, and never will."""


@dataclass(slots=True)
class _Call:
    response: Response
    unsent: memoryview
    window: int
    received: int = 0


class H2Calls:
    """One connection, from its first byte to its last.  Any error it raises ends it."""

    def __init__(self) -> None:
        import hpack  # of the extra `server`: clients look at the factories of server services, too, and do without it

        self.is_usable = True
        """May calls be begun?  No more when the server is about to close, or the numbers are used up."""
        self._calls: dict[int, _Call] = {}
        self._next = 1
        self._out: list[bytes] = []
        self._in = b""
        self._owed = 0
        self._decoder = hpack.Decoder(MAX_HEADERS)
        self._undecodable = hpack.HPACKError
        self._decoded: dict[bytes, Headers] = {}
        self._encoder_note = b""
        self._header_block: tuple[int, int, bytearray] | None = None
        self._blocked: deque[int] = deque()
        self._window = _DEFAULT_WINDOW
        self._initial_window = _DEFAULT_WINDOW
        self._max_calls = FIRST_CALLS
        self._received = 0
        self._is_greeted = False
        self._handlers: dict[int, Callable[[int, int, bytes], Response | None]] = {
            _DATA: self._data,
            _HEADERS: self._headers,
            _CONTINUATION: self._continuation,
            _RST_STREAM: self._rst_stream,
            _SETTINGS: self._settings,
            _PUSH_PROMISE: self._push_promise,
            _PING: self._ping,
            _WINDOW_UPDATE: self._window_update,
        }
        settings = ((_ENABLE_PUSH, 0), (_INITIAL_WINDOW_SIZE, MAX_BODY), (_MAX_HEADER_LIST_SIZE, MAX_HEADERS))
        self._out.append(_PREFACE)
        self._send(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))
        self._send(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _CONNECTION_WINDOW - _DEFAULT_WINDOW))

    # -- calls

    @property
    def has_room(self) -> bool:
        """May another call be begun now?"""
        return self.is_usable and len(self._calls) < self._max_calls and not self._blocked

    def __len__(self) -> int:
        """Calls that are under way."""
        return len(self._calls)

    def begin(self, head: bytes, body: bytes) -> int:
        """Send a request, of which `head` is the header block in HPACK's encoding that refers to no dynamic table.

        Only while there is room.  @return: the number under which its response comes.
        """
        number = self._next
        self._next += 2
        self.is_usable = self._next <= LAST_NUMBER
        call = _Call(Response(number), memoryview(body), self._initial_window)
        self._calls[number] = call
        flags = _END_HEADERS if body else _END_HEADERS | _END_STREAM
        self._send(_HEADERS, flags, number, self._encoder_note + head)
        self._encoder_note = b""
        self._send_body(number, call)
        if call.unsent:
            self._blocked.append(number)
        return number

    def cancel(self, number: int) -> None:
        """Nobody wants the response any more; nothing more is said of the call."""
        if self._calls.pop(number, None) is not None:
            self._reset(number)

    def lose(self, error: str) -> list[Response]:
        """The connection is gone; @return: what that leaves of the calls."""
        self.is_usable = False
        return self._end(list(self._calls), error, is_begun=True)

    def take(self) -> bytes:
        """What is to be sent now."""
        out = b"".join(self._out)
        self._out.clear()
        self._owed = 0
        return out

    def receive(self, data: bytes) -> list[Response]:
        """Take what has come, cut anywhere; @return: the responses that are at their end.  Raises ProtocolError."""
        ended: list[Response] = []
        for kind, flags, number, payload in self._frames(data):
            if kind == _GOAWAY:
                ended += self._goaway(payload)
                continue
            handler = self._handlers.get(kind)
            if self._header_block is not None and kind != _CONTINUATION:
                raise ProtocolError("a frame amid the parts of a header block")
            if handler is not None and (response := handler(flags, number, payload)) is not None:
                ended.append(response)
        return ended

    # -- frames

    def _frames(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._in + data if self._in else data
        position, size = 0, len(data)
        while size - position >= 9:
            high, low, kind, flags, number = _head.unpack_from(data, position)
            end = position + 9 + (high << 8 | low)
            if not self._is_greeted and (kind != _SETTINGS or flags & _ACK):
                raise ProtocolError("what answers does not speak HTTP/2")
            if end - position - 9 > MAX_FRAME:
                raise TooLarge(f"a frame of {end - position - 9} bytes")
            if end > size:
                break
            yield kind, flags, number & LAST_NUMBER, data[position + 9 : end]
            position = end
        self._in = data[position:]

    def _send(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._out.append(_head.pack(size >> 8, size & 0xFF, kind, flags, number))
        self._out.append(payload)  # type: ignore[arg-type]  # join() takes both

    def _owe(self) -> None:
        self._owed += 1
        if self._owed > MAX_OWED:
            raise ProtocolError("the server asks and asks, and takes no answer")

    def _reset(self, number: int) -> None:
        self._send(_RST_STREAM, 0, number, struct.pack(">I", _CANCEL))

    # -- requests

    def _send_body(self, number: int, call: _Call) -> None:
        """Send as much of a body as the windows allow."""
        while call.unsent:
            size = min(len(call.unsent), call.window, self._window, MAX_FRAME)
            if size <= 0:
                return
            piece, call.unsent = call.unsent[:size], call.unsent[size:]
            call.window -= size
            self._window -= size
            self._send(_DATA, 0 if call.unsent else _END_STREAM, number, piece)

    def _send_blocked(self) -> None:
        for _ in range(len(self._blocked)):
            number = self._blocked.popleft()
            call = self._calls.get(number)
            if call is not None:
                self._send_body(number, call)
                if call.unsent:
                    self._blocked.append(number)

    # -- responses

    def _data(self, flags: int, number: int, payload: bytes) -> Response | None:
        self._received += len(payload)
        if self._received >= _CONNECTION_WINDOW // 2:
            self._send(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
            self._received = 0
        call = self._known(number)
        if call is None:
            return None
        if not call.response.headers:
            raise ProtocolError("a body before its head")
        call.response.body += _without_padding(flags, payload)
        call.received += len(payload)
        if call.received >= MAX_BODY:
            self._reset(number)
            [response] = self._end([number], f"the response has {MAX_BODY} bytes or more", is_begun=True)
            response.is_too_large = True
            return response
        return self._finish(number) if flags & _END_STREAM else None

    def _headers(self, flags: int, number: int, payload: bytes) -> Response | None:
        if not number & 1:
            raise ProtocolError("headers on a stream that is none of ours")
        payload = _without_padding(flags, payload)
        if flags & _PRIORITY:
            payload = payload[5:]
        if flags & _END_HEADERS:
            return self._header_block_is_whole(flags, number, payload)
        self._header_block = flags, number, bytearray(payload)
        return None

    def _continuation(self, flags: int, number: int, payload: bytes) -> Response | None:
        if self._header_block is None or self._header_block[1] != number:
            raise ProtocolError("the continuation of nothing")
        first_flags, _, block = self._header_block
        block += payload
        if len(block) > MAX_HEADERS:
            raise TooLarge("a header block without end")
        if not flags & _END_HEADERS:
            self._owe()  # they may be empty
            return None
        self._header_block = None
        return self._header_block_is_whole(first_flags, number, bytes(block))

    def _header_block_is_whole(self, flags: int, number: int, block: bytes) -> Response | None:
        headers = self._decode(block)  # always, since it may change the table of what follows
        call = self._known(number)
        if call is None:
            return None
        if not call.response.headers and any(_is_interim(*header) for header in headers):
            return None
        call.response.headers = call.response.headers + headers
        return self._finish(number) if flags & _END_STREAM else None

    def _decode(self, block: bytes) -> Headers:
        """A block of nothing but references to the table means the same as long as the table does."""
        known = self._decoded.get(block)
        if known is not None:
            return known
        try:
            headers: Headers = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except self._undecodable as error:
            raise ProtocolError(f"headers that cannot be decoded: {error}") from None
        if min(block, default=0) >= 0x80 and max(block) < 0xFF and len(self._decoded) < 100:
            self._decoded[block] = headers
        else:
            self._decoded.clear()
        return headers

    def _rst_stream(self, flags: int, number: int, payload: bytes) -> Response | None:
        code = _number(payload)
        call = self._known(number)
        if call is None:
            return None
        del self._calls[number]
        response = call.response
        if code == _NO_ERROR and _is_complete(response):
            return response  # "that is all; I do not want the rest of the request"
        response.error = f"the server ended the request with HTTP/2's error {code}"
        response.is_begun = code != _REFUSED_STREAM
        return response

    def _finish(self, number: int) -> Response:
        call = self._calls.pop(number)
        if call.unsent:
            self._reset(number)  # what is left of the request is of no interest to the server
        return call.response

    def _end(self, numbers: Iterable[int], error: str, *, is_begun: bool) -> list[Response]:
        ended = [self._calls.pop(number).response for number in numbers]
        for response in ended:
            response.error, response.is_begun = error, is_begun
        return ended

    def _known(self, number: int) -> _Call | None:
        """None for a call that is over: the server did not know yet when it sent this."""
        if not number or number >= self._next:
            raise ProtocolError("a stream that nobody opened")
        return self._calls.get(number)

    # -- the connection

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & _ACK and payload):
            raise ProtocolError("a SETTINGS frame that is none")
        if flags & _ACK:
            return
        if not self._is_greeted:
            self._is_greeted = True
            self._max_calls = LAST_NUMBER  # without a word on it there is no limit
        for setting, value in struct.iter_unpack(">HI", payload):
            if setting == _MAX_CONCURRENT_STREAMS:
                self._max_calls = value
            elif setting == _INITIAL_WINDOW_SIZE:
                if value > _LARGEST_WINDOW:
                    raise ProtocolError("a window that is too large")
                for call in self._calls.values():
                    call.window += value - self._initial_window
                self._initial_window = value
            elif setting == _HEADER_TABLE_SIZE and value < _DEFAULT_TABLE:
                self._encoder_note = _RESIZED_TO_NOTHING
        self._owe()
        self._send(_SETTINGS, _ACK, 0, b"")
        self._send_blocked()

    def _window_update(self, flags: int, number: int, payload: bytes) -> None:
        increment = _number(payload) & _LARGEST_WINDOW
        if not increment:
            raise ProtocolError("a window that is opened by nothing")
        if not number:
            self._window += increment
            if self._window > _LARGEST_WINDOW:
                raise ProtocolError("a window that is too large")
        elif (call := self._known(number)) is not None:
            call.window += increment
            if call.window > _LARGEST_WINDOW:
                raise ProtocolError("a window that is too large")
        if self._blocked:
            self._send_blocked()

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ProtocolError("a PING frame that is none")
        if not flags & _ACK:
            self._owe()
            self._send(_PING, _ACK, 0, payload)

    def _goaway(self, payload: bytes) -> list[Response]:
        if len(payload) < 8:
            raise ProtocolError("a GOAWAY frame that is none")
        last, code = struct.unpack_from(">II", payload)
        last &= LAST_NUMBER
        self.is_usable = False
        return self._end(
            [number for number in self._calls if number > last],
            f"the server closes the connection (HTTP/2's error {code})",
            is_begun=False,
        )

    def _push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise ProtocolError("a response to what nobody asked")


def _without_padding(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _number(payload: bytes) -> int:
    if len(payload) != 4:
        raise ProtocolError("a frame of the wrong size")
    return int.from_bytes(payload, "big")


def _is_interim(name: bytes, value: bytes) -> bool:
    return name == b":status" and value.startswith(b"1")


def _is_complete(response: Response) -> bool:
    return any(name == b"grpc-status" for name, _ in response.headers)
