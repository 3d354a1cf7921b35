"""Network addresses as people write them in configuration files and options."""

from __future__ import annotations

import re

from fleetspeak.errors import ConfigError

_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]*)):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65535


def parse_listen(text: str) -> tuple[str, int]:
    """Where to listen: ``:443``, ``localhost:1234``, ``[::]:443``.

    @return: host and port; the host is empty for all addresses, port 0 lets the kernel pick one.
    @raise ConfigError: it has another form.
    """
    host, port = _split(text)
    if port > _MAX_PORT:
        raise ConfigError(f"{text!r} is not an address to listen on: ports end at {_MAX_PORT}")
    return host, port


def parse_host_port(text: str) -> tuple[str, int]:
    """Where to connect to: ``fleet.example:443``, ``192.0.2.1:443``, ``[2001:db8::1]:443``.

    @raise ConfigError: it has another form.
    """
    host, port = _split(text)
    if not host:
        raise ConfigError(f"{text!r} does not say which host; expected host:port")
    if not 1 <= port <= _MAX_PORT:
        raise ConfigError(f"{text!r} has no usable port; expected host:port with a port from 1 to {_MAX_PORT}")
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and reached from nowhere else, as far as its name or address tells."""
    if host == "localhost":
        return True
    import ipaddress  # which takes a while, and a command line has to be quick

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def show(host: str, port: int) -> str:
    """The opposite: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(text: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not an address; expected host:port, with an IPv6 address in brackets")
    return match["bracketed"] or match["plain"] or "", int(match["port"])
