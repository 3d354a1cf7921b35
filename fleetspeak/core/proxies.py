"""Which proxy a connection goes through: the configured one, or the one that the environment names.

The environment is read by the rules of Go's programs, so that a machine whose client is replaced keeps its way out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080}
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and how to show it who we are."""

    scheme: str
    """``http``, ``https`` (CONNECT through TLS) or ``socks5``."""
    host: str
    port: int
    username: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_proxy(text: str) -> Proxy:
    """The proxy that a URL names.

    @raise ValueError: it names none.  The text of the error never quotes the URL: there may be a password in it.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _unusable() from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or port == 0:
        raise _unusable()
    return Proxy(
        parts.scheme,
        parts.hostname,
        port or _DEFAULT_PORTS[parts.scheme],
        None if parts.username is None else unquote(parts.username),
        unquote(parts.password or ""),
    )


def _unusable() -> ValueError:
    return ValueError("expected a URL such as http://proxy.example:3128; schemes are http, https and socks5")


def environment_proxy(environment: Mapping[str, str], host: str, port: int) -> Proxy | None:
    """The proxy that ``HTTPS_PROXY`` and ``NO_PROXY`` want for this server; None for a direct connection.

    @raise ValueError: ``HTTPS_PROXY`` names none that could be used.
    """
    name, text = _first_set(environment, "HTTPS_PROXY", "https_proxy")
    if not text or is_exempt(_first_set(environment, "NO_PROXY", "no_proxy")[1], host, port):
        return None
    text = text.replace("socks5h://", "socks5://", 1)  # names are always the proxy's to resolve
    try:
        return parse_proxy(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise ValueError(f"{name} in the environment: {error}") from None


def is_exempt(no_proxy: str, host: str, port: int) -> bool:
    """Is this server reached without the environment's proxy?  Loopback always is.

    @param no_proxy: entries with commas between them: ``*``; an address or a network (``10.0.0.0/8``); a domain,
        which stands for itself and all below it; ``.domain`` or ``*.domain`` for those below it alone.  Any of them
        but networks and ``*`` may end in ``:port``.
    """
    host = host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_fits(entry.strip().lower(), host, address, port) for entry in no_proxy.split(","))


def _fits(entry: str, host: str, address: _Address | None, port: int) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    if "/" in entry:
        network = _network(entry)
        if network is not None:
            return address is not None and address in network
    name, entry_port = _split_port(entry)
    if entry_port not in (None, port):
        return False
    if (exempt := _address(name)) is not None:
        return exempt == address
    if address is not None or not name:
        return False
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith("." + name)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _split_port(entry: str) -> tuple[str, int | None]:
    name, colon, digits = entry.rpartition(":")
    if not colon or _address(entry) is not None or not digits.isascii() or not digits.isdigit():
        return entry.strip("[]"), None
    return name.strip("[]"), int(digits) if len(digits) <= len(str(_MAX_PORT)) else -1


def _first_set(environment: Mapping[str, str], *names: str) -> tuple[str, str]:
    return next(((name, environment[name]) for name in names if environment.get(name)), ("", ""))
