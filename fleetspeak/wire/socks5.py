"""The client's side of SOCKS 5 (RFC 1928), with user name and password (RFC 1929)."""

from __future__ import annotations

import ipaddress

from fleetspeak.errors import ProtocolError, ProxyRefused

_VERSION = 5
_AUTH_VERSION = 1
_NO_AUTH, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_ADDRESS_SIZE = {_IPV4: 4, _IPV6: 16}

_MAX_TEXT = 255
"""Bytes in a name, a user or a password; the protocol has one byte for the length."""

_REPLIES = {
    1: "general failure; its log may say more",
    2: "its rules forbid this destination; have them allow it",
    3: "network unreachable from there",
    4: "it cannot reach the server; check the server's name, and the way from there",
    5: "the server refused its connection; check the server's port, and that it runs",
    6: "the way to the server is too long",
    7: "it makes no tunnels; name a proxy that takes CONNECT",
    8: "it does not know this kind of address",
}
"""What the codes of RFC 1928 mean for who must act."""


class Socks5:
    """One tunnel being asked for.  Send what `begin` and `feed` give, until `done`."""

    def __init__(self, host: str, port: int, username: str | None = None, password: str = "") -> None:
        """@param host: a name, which the proxy resolves, or an address.

        @raise ValueError: one of them is longer than the protocol can say.
        """
        self._address = _address(host) + port.to_bytes(2, "big")
        self._credentials = None if username is None else (_text(username), _text(password))
        self._buffer = b""
        self._step = self._take_method
        self.done = False
        """The tunnel is there."""
        self.rest = b""
        """What came through it behind the proxy's own answers."""

    def begin(self) -> bytes:
        """The greeting: how we could show who we are."""
        methods = [_NO_AUTH] if self._credentials is None else [_NO_AUTH, _PASSWORD]
        return bytes([_VERSION, len(methods), *methods])

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the proxy.  Returns what to send, if anything.

        @raise ProxyRefused: it does not make the tunnel; says why and what to do.
        @raise ProtocolError: this is no SOCKS 5 proxy.
        """
        self._buffer += data
        answer = b""
        while not self.done and (said := self._step()) is not None:
            answer += said
        if self.done:
            self.rest, self._buffer = self._buffer, b""
        return answer

    def _taken(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _take_method(self) -> bytes | None:
        _expect(self._buffer, _VERSION)
        if (reply := self._taken(2)) is None:
            return None
        method = reply[1]
        if method == _NO_AUTH:
            return self._ask()
        if method == _PASSWORD and self._credentials is not None:
            self._step = self._take_verdict
            return bytes([_AUTH_VERSION]) + b"".join(self._credentials)
        if method != _NO_METHOD:
            raise ProtocolError(f"it chose authentication method {method}, which was not offered")
        if self._credentials is None:
            raise ProxyRefused("it wants user and password; give them in its URL, socks5://USER:PASSWORD@HOST:PORT")
        raise ProxyRefused("it takes neither no authentication nor user and password")

    def _take_verdict(self) -> bytes | None:
        _expect(self._buffer, _AUTH_VERSION)
        if (reply := self._taken(2)) is None:
            return None
        if reply[1]:
            raise ProxyRefused("it does not take the user and password of the proxy's URL")
        return self._ask()

    def _ask(self) -> bytes:
        self._step = self._take_reply
        return bytes([_VERSION, _CONNECT, 0]) + self._address

    def _take_reply(self) -> bytes | None:
        _expect(self._buffer, _VERSION)
        if len(self._buffer) >= 2 and self._buffer[1]:
            code = self._buffer[1]
            raise ProxyRefused(f"it said {code}: {_REPLIES.get(code, 'a code of its own; its log may say more')}")
        if len(self._buffer) < 5:
            return None
        kind = self._buffer[3]
        if kind != _NAME and kind not in _ADDRESS_SIZE:
            raise ProtocolError(f"its reply has an address of unknown kind {kind}")
        if self._taken(4 + (1 + self._buffer[4] if kind == _NAME else _ADDRESS_SIZE[kind]) + 2) is not None:
            self.done = True
        return None


def _expect(data: bytes, version: int) -> None:
    if data and data[0] != version:
        raise ProtocolError("what it answered is not SOCKS 5; check host, port and scheme of the proxy's URL")


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii" if host.isascii() else "idna")
        return bytes([_NAME]) + _counted(name, "the server's name")
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


def _text(text: str) -> bytes:
    return _counted(text.encode(), "a user or password for SOCKS 5")


def _counted(data: bytes, what: str) -> bytes:
    if len(data) > _MAX_TEXT:
        raise ValueError(f"{what} has {len(data)} bytes, only {_MAX_TEXT} are possible")
    return bytes([len(data)]) + data
