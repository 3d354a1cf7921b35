"""gRPC's unary calls in terms of HTTP/2: what a request's head and body are, and what a response means."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from fleetspeak.wire.h2calls import Response

STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""Names of the status codes, by their numbers."""

_OF_HTTP = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}
"""What a proxy's answer means (gRPC's http-grpc-status-mapping); any other one is UNKNOWN."""

_POST, _HTTP, _HTTPS = b"\x83", b"\x86", b"\x87"
_AUTHORITY, _PATH, _CONTENT_TYPE = b"\x01", b"\x04", b"\x0f\x10"
"""Indices of HPACK's static table: whole fields, and names of literal fields that enter no table."""

DEFAULT_PORT = 443
"""Of a target that names none, as gRPC has it."""

MAX_DETAILS = 1000
"""Bytes of a status message that are kept."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended."""

    code: str
    details: str = ""
    reply: bytes = b""
    """The message that came back, if all went well."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a gRPC server is: a host and a port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def authority(self) -> str:
        """What a call says that it is for."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """Read a target as gRPC writes it: ``host:port``, ``dns:///host:port``, ``ipv4:``, ``ipv6:``, ``unix:path``.

    @raise ValueError: it is none of these; says so.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "unix":
        path = rest.removeprefix("//")
        if not path:
            raise ValueError(f"{text} names no Unix socket")
        return Target(path=path)
    if colon and scheme in ("dns", "ipv4", "ipv6", "passthrough"):
        if rest.startswith("//"):  # an authority, which would be another DNS server
            authority, _, rest = rest[2:].partition("/")
            if authority:
                raise ValueError(f"{text} names a DNS server of its own, which is not supported")
        text = rest
    host, port = _split(text)
    return Target(host, port)


def _split(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if (text.startswith("[") and text.endswith("]")) or not colon:
        host, port = text, str(DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text} should end in a port, as in localhost:1337")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text} is not understood: expected host:port, an IPv6 address in brackets, or unix:PATH")
    if not host or any(character.isspace() or character in "/%@" for character in host):
        raise ValueError(f"{text} names no host")
    return host, int(port)


def request_head(path: str, authority: str, *, tls: bool) -> bytes:
    """The header block of every call of one method, but for its time limit."""
    return b"".join(
        (
            _POST,
            _HTTPS if tls else _HTTP,
            _PATH + _text(path.encode()),
            _AUTHORITY + _text(authority.encode()),
            _CONTENT_TYPE + _text(b"application/grpc"),
            b"\x00" + _text(b"te") + _text(b"trailers"),
        )
    )


def time_limit(seconds: float) -> bytes:
    """What is put behind that: the call is over in so many seconds."""
    milliseconds = min(max(round(seconds * 1000), 1), 99_999_999)
    return b"\x00\x0cgrpc-timeout" + _text(b"%dm" % milliseconds)


def request_body(message: bytes) -> bytes:
    """One message, not compressed."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


def status_of(response: Response) -> Status:
    """What a response means."""
    if response.is_too_large:
        return Status("RESOURCE_EXHAUSTED", response.error)
    if response.error:
        return Status("UNAVAILABLE", response.error)
    fields = dict(response.headers)
    number = fields.get(b"grpc-status")
    if number is None:
        return _without_status(fields)
    code = STATUSES[int(number)] if number.isdigit() and len(number) < 3 and int(number) < len(STATUSES) else "UNKNOWN"
    if code == "OK":
        if not _is_one_message(response.body):
            return Status("INTERNAL", "the response is not one message")
        return Status(code, reply=response.body[5:])
    details = unquote_to_bytes(fields.get(b"grpc-message", b"")[: 3 * MAX_DETAILS])[:MAX_DETAILS]
    return Status(code, details.decode(errors="replace"))


def _without_status(fields: dict[bytes, bytes]) -> Status:
    http = fields.get(b":status", b"")
    shown = http.decode("ascii", "replace")[:20]
    if http == b"200":
        return Status("UNKNOWN", "the response has no grpc-status; is the target a gRPC server?")
    code = _OF_HTTP.get(int(http) if http.isdigit() and len(http) == 3 else 0, "UNKNOWN")
    return Status(code, f"the target answered with HTTP status {shown}; is it a gRPC server?")


def _is_one_message(body: bytes) -> bool:
    """An empty message is five bytes of head."""
    return len(body) >= 5 and body[0] == 0 and int.from_bytes(body[1:5], "big") == len(body) - 5


def _text(text: bytes) -> bytes:
    """HPACK's string, without Huffman's code."""
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    encoded = bytearray((0x7F,))
    size -= 0x7F
    while size >= 0x80:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded) + text
