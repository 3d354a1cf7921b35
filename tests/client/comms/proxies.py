"""Proxies for tests: Debian's tinyproxy, and a small SOCKS 5 server that shares no code with our client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.programs import Program, free_port, require_on_path


class Tinyproxy:
    """A real HTTP proxy on 127.0.0.1."""

    def __init__(self, folder: Path, *lines: str) -> None:
        """@param lines: added to its configuration."""
        program = require_on_path("tinyproxy", "apt-get install tinyproxy-bin")
        self.port = free_port()
        config = folder / f"tinyproxy-{self.port}.conf"
        settings = [f"Port {self.port}", "Listen 127.0.0.1", "Timeout 30", "LogLevel Connect", "MaxClients 20", *lines]
        config.write_text("\n".join([*settings, ""]))
        self.program = Program("tinyproxy", [program, "-d", "-c", config], folder=folder)
        self.program.wait_for_line("Reloading config file finished")

    @property
    def connects(self) -> list[str]:
        """The CONNECT requests it has logged."""
        return self.program.lines_matching("CONNECT [^ ]+ HTTP")

    def stop(self) -> None:
        self.program.make_sure_it_ended()


class Socks5Server(Factory):
    """Connects to wherever it is told, after what authentication the test wants."""

    noisy = False

    def __init__(self, reactor: Any, users: dict[str, str] | None = None) -> None:
        self.reactor = reactor
        self.users = users
        self.asked: list[tuple[str, int]] = []
        """Host, as it came, and port of each request."""
        self.resolve: Callable[[str], str] = lambda host: host
        self.reply = 0
        """Another code refuses."""

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Socks5Connection(self)


class _Socks5Connection(Protocol):
    def __init__(self, server: Socks5Server) -> None:
        self.server = server
        self.peer: Any = None
        self._buffer = b""
        self._step = self._greeting

    def dataReceived(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.transport.write(data)
            return
        self._buffer += data
        self._step()

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        for byte in data:  # as badly cut as it can be
            self.transport.write(bytes([byte]))

    def _greeting(self) -> None:
        if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            return
        methods, self._buffer = self._buffer[2 : 2 + self._buffer[1]], self._buffer[2 + self._buffer[1] :]
        if self.server.users is None and 0 in methods:
            self._write(b"\x05\x00")
            self._step = self._request
        elif self.server.users is not None and 2 in methods:
            self._write(b"\x05\x02")
            self._step = self._user
        else:
            self._write(b"\x05\xff")

    def _user(self) -> None:
        if len(self._buffer) < 2:
            return
        user_size = self._buffer[1]
        if len(self._buffer) < 3 + user_size or len(self._buffer) < 3 + user_size + self._buffer[2 + user_size]:
            return
        user, password = self._buffer[2 : 2 + user_size], self._buffer[3 + user_size :]
        self._buffer = b""
        right = (self.server.users or {}).get(user.decode()) == password.decode()
        self._write(b"\x01" + bytes([not right]))
        self._step = self._request

    def _request(self) -> None:
        if len(self._buffer) < 5:
            return
        kind = self._buffer[3]
        size = {1: 4, 3: 1 + self._buffer[4], 4: 16}[kind]
        if len(self._buffer) < 4 + size + 2:
            return
        address = self._buffer[4 : 4 + size]
        host = address[1:].decode() if kind == 3 else ".".join(map(str, address))
        port = int.from_bytes(self._buffer[4 + size :], "big")
        self.server.asked.append((host, port))
        if self.server.reply:
            self._write(bytes([5, self.server.reply, 0, 1]) + bytes(6))
        else:
            self.server.reactor.connectTCP(self.server.resolve(host), port, _ToServer(self))

    def established(self, peer: Any) -> None:
        self.peer = peer
        self._write(b"\x05\x00\x00\x01" + bytes(6))

    def refused(self) -> None:
        self._write(b"\x05\x05\x00\x01" + bytes(6))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.loseConnection()


class _ToServer(ClientFactory):
    noisy = False

    def __init__(self, back: _Socks5Connection) -> None:
        self._back = back

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Piped(self._back)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._back.refused()


class _Piped(Protocol):
    def __init__(self, back: _Socks5Connection) -> None:
        self._back = back

    def connectionMade(self) -> None:
        self._back.established(self)

    def dataReceived(self, data: bytes) -> None:
        assert self._back.transport is not None
        self._back.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._back.transport is not None:
            self._back.transport.loseConnection()
