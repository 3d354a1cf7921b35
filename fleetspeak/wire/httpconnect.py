"""The CONNECT method of HTTP proxies: asking for a tunnel, and reading what the proxy says to it."""

from __future__ import annotations

import base64
import re

from fleetspeak.errors import ProtocolError, ProxyRefused, TooLarge

MAX_HEAD = 16 * 1024
"""Bytes in the head of a proxy's answer."""

_MAX_REASON = 100
"""Characters of a proxy's own words that people get to see."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?: (.*))?")
_END = re.compile(rb"\r?\n\r?\n")

_UNAUTHORIZED = (401, 407)
"""The second is the right one; tinyproxy says the first when it does not know the user."""

_HINTS = {
    403: "its rules forbid this destination; have them allow CONNECT to it",
    405: "it makes no tunnels; name a proxy that takes CONNECT",
    501: "it makes no tunnels; name a proxy that takes CONNECT",
    **dict.fromkeys(
        (500, 502, 503, 504), "it cannot reach the server; check the server's name and port, and the way from there"
    ),
}
"""What to do, by status."""


class HttpConnect:
    """One tunnel being asked for.  Send what `begin` and `feed` give, until `done`."""

    def __init__(self, host: str, port: int, username: str | None = None, password: str = "") -> None:
        """@param host: a name, which the proxy resolves, or an address."""
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._credentials = None if username is None else f"{username}:{password}".encode()
        self._buffer = b""
        self.done = False
        """The tunnel is there."""
        self.rest = b""
        """What came through it behind the proxy's own answer."""

    def begin(self) -> bytes:
        """The request."""
        lines = [
            b"CONNECT %b HTTP/1.1" % self._target.encode("idna" if not self._target.isascii() else "ascii"),
            b"Host: " + self._target.encode("idna" if not self._target.isascii() else "ascii"),
            b"User-Agent: fleetspeak-client",
        ]
        if self._credentials is not None:
            lines.append(b"Proxy-Authorization: Basic " + base64.b64encode(self._credentials))
        return b"\r\n".join([*lines, b"", b""])

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the proxy.  Returns what to send, which is nothing.

        @raise ProxyRefused: it does not make the tunnel; says why and what to do.
        @raise ProtocolError: this is no HTTP proxy, or (TooLarge) its answer does not end.
        """
        self._buffer += data
        end = _END.search(self._buffer, 0, MAX_HEAD)
        if end is None:
            self._check_unfinished()
            return b""
        self._check_status(self._buffer[: end.start()].split(b"\n", 1)[0].rstrip(b"\r"))
        self.done, self.rest, self._buffer = True, self._buffer[end.end() :], b""
        return b""

    def _check_unfinished(self) -> None:
        start = self._buffer[:7]
        if start != b"HTTP/1."[: len(start)]:
            raise _not_http()
        if len(self._buffer) >= MAX_HEAD:
            raise TooLarge(f"the head of its answer has more than {MAX_HEAD} bytes")

    def _check_status(self, line: bytes) -> None:
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise _not_http()
        status = int(found[1])
        if not 200 <= status < 300:
            raise ProxyRefused(f"it said {_shown(found[1], found[2])}; {self._hint(status)}")

    def _hint(self, status: int) -> str:
        if status not in _UNAUTHORIZED:
            return _HINTS.get(status, "check that this is an HTTP proxy, and its log")
        if self._credentials is None:
            return "give it user and password in the proxy's URL, http://USER:PASSWORD@HOST:PORT"
        return "it does not take the user and password of the proxy's URL, or not this way (only Basic is known here)"


def _not_http() -> ProtocolError:
    return ProtocolError("what it answered is not HTTP; check host, port and scheme of the proxy's URL")


def _shown(status: bytes, reason: bytes | None) -> str:
    text = (reason or b"").decode("ascii", "replace")[:_MAX_REASON]
    return f"{status.decode('ascii')} {''.join(c for c in text if c.isprintable())}".strip()
