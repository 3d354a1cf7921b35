"""Names of MySQL data sources, in the grammar of the Go MySQL driver 1.6.

``[user[:password]@][protocol[(address)]]/database[?parameter=value&...]``

The last ``/`` ends the address, the last ``@`` before it the credentials, the first ``:`` in these the user; nothing
is escaped, so a password may have all three of them.  Values of parameters are URL-encoded.  No text that is raised
here quotes anything of a name but its parameters, since it is easily written so that the password stands elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from fleetspeak.errors import ConfigError

DEFAULT_PORT = 3306
DEFAULT_HOST = "127.0.0.1"
DEFAULT_SOCKET = "/tmp/mysql.sock"  # noqa: S108 (that is where the Go driver looks)
DEFAULT_COLLATION = "utf8mb4_general_ci"

TLS_MODES = ("true", "false", "skip-verify", "preferred")
"""``tls``: verified, none, encrypted without knowing with whom, the same if the server can."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"\+?(?:{_DURATION_PART.pattern})+", re.ASCII)
_PORT = re.compile("[0-9]{1,5}", re.ASCII)
_VARIABLE = re.compile("[A-Za-z_@][A-Za-z0-9_.@]*", re.ASCII)
_WORD = re.compile("[A-Za-z0-9_]+", re.ASCII)
_TRUE = ("1", "true", "TRUE", "True")
_FALSE = ("0", "false", "FALSE", "False")

_MEANINGLESS = (
    "allowAllFiles",
    "allowNativePasswords",
    "allowOldPasswords",
    "checkConnLiveness",
    "clientFoundRows",
    "columnsWithAlias",
    "interpolateParams",
    "multiStatements",
    "parseTime",
    "rejectReadOnly",
)
"""How the Go driver talks to programs in Go, and what we do always or never: checked, and passed over."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """A database on a server that speaks MySQL's protocol, and how to talk to it.  Times are seconds."""

    database: str
    user: str = ""
    password: str = field(default="", repr=False)
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    socket: str = ""
    """Path of a Unix socket, in place of host and port."""
    charset: str = "utf8mb4"
    collation: str = DEFAULT_COLLATION
    timeout: float | None = None
    """For connecting."""
    read_timeout: float | None = None
    write_timeout: float | None = None
    tls: str = "false"
    """One of `TLS_MODES`."""
    max_allowed_packet: int = 0
    """Most bytes in a statement; 0: whatever the server takes."""
    allow_cleartext_passwords: bool = False
    """Whether a server may ask for the password itself."""
    variables: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Session variables to set, with their values as SQL."""

    def __str__(self) -> str:
        """Where it is, for people; without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.socket or f'{host}:{self.port}'}/{self.database}"


def parse(text: str) -> DataSource:
    """Read the name of a data source.  Raises ConfigError; its text has no password."""
    before, slash, behind = text.rpartition("/")
    if not slash:
        raise _bad("missing the slash separating the database name")
    credentials, _, address = before.rpartition("@")
    user, _, password = credentials.partition(":")
    database, _, parameters = behind.partition("?")
    if not database:
        raise _bad("it names no database behind the last slash")
    return DataSource(
        database=database, user=user, password=password, **_read_address(address), **_read_parameters(parameters)
    )


def parse_duration(text: str) -> float:
    """Seconds in a duration as Go writes it: ``30s``, ``1m30s``, ``250ms``.  Raises ValueError."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError("expected a duration such as 30s, 1m30s or 250ms")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def _bad(what: str) -> ConfigError:
    return ConfigError(
        f"invalid DSN: {what}; expected user:password@tcp(host:port)/database, with an optional ?parameter=value&..."
    )


def _read_address(text: str) -> dict[str, Any]:
    protocol, opening, address = text.partition("(")
    if opening and not address.endswith(")"):
        raise _bad("its network address is not ended by a closing parenthesis before the last slash")
    address = address.removesuffix(")")
    if protocol == "unix":
        return {"socket": address or DEFAULT_SOCKET}
    if protocol not in ("", "tcp"):
        raise _bad("its protocol is neither tcp nor unix")
    host, port = _split(address)
    return {"host": host or DEFAULT_HOST, "port": port}


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address, "", ""
    if address.startswith("["):
        host, closing, rest = address[1:].partition("]")
        if not closing or (rest and not rest.startswith(":")):
            raise _bad("the brackets of its IPv6 address do not match")
        colon, port = rest[:1], rest[1:]
    elif ":" in address:
        host, colon, port = address.partition(":")
        if ":" in port:
            raise _bad("an IPv6 address must be in brackets")
    if any(character in host for character in "[]()"):
        raise _bad("its host has brackets")
    if not colon:
        return host, DEFAULT_PORT
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise _bad("its port is not a number from 1 to 65535")
    return host, int(port)


def _read_parameters(text: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    variables: dict[str, str] = {}
    for parameter in text.split("&") if text else ():
        name, equals, encoded = parameter.partition("=")
        if not equals:
            continue  # as the Go driver does
        value = _decoded(name, encoded)
        if name in _PARAMETERS:
            field_name, read = _PARAMETERS[name]
            try:
                known[field_name] = read(value)
            except ValueError as error:
                raise ConfigError(f"invalid DSN: parameter {name}={value[:40]}: {error}") from None
        elif name in _MEANINGLESS:
            _check_bool(name, value)
        elif name == "loc":
            continue  # times are integers in all tables
        elif name == "serverPubKey":
            raise ConfigError("invalid DSN: serverPubKey names a key of a program in Go; use tls=true instead")
        elif not _VARIABLE.fullmatch(name):
            raise ConfigError(f"invalid DSN: {name[:40]!r} is no parameter, and cannot be a session variable")
        else:
            variables[name] = _sql(name, value)
    return known | {"variables": tuple(variables.items())}


def _decoded(name: str, encoded: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})", encoded):
        raise ConfigError(f"invalid DSN: the value of parameter {name[:40]!r} is not URL-encoded")
    try:
        return unquote_to_bytes(encoded.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"invalid DSN: the value of parameter {name[:40]!r} is not UTF-8") from None


def _check_bool(name: str, value: str) -> None:
    try:
        _bool(value)
    except ValueError as error:
        raise ConfigError(f"invalid DSN: parameter {name}={value[:40]}: {error}") from None


def _sql(name: str, value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ConfigError(f"invalid DSN: session variable {name} has no value")
    return value


def _bool(value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise ValueError("expected true or false")
    return value in _TRUE


def _seconds(value: str) -> float | None:
    return parse_duration(value) or None


def _tls(value: str) -> str:
    if value.lower() in ("skip-verify", "preferred"):
        return value.lower()
    if value in (*_TRUE, *_FALSE):
        return "true" if value in _TRUE else "false"
    raise ValueError(f"expected one of {', '.join(TLS_MODES)}")


def _bytes(value: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", value, re.ASCII):
        raise ValueError("expected a number of bytes")
    return int(value)


def _charset(value: str) -> str:
    names = value.split(",")  # those to try, in this order
    if not all(map(_WORD.fullmatch, names)):
        raise ValueError("expected the name of a character set")
    return names[0]


def _collation(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError("expected the name of a collation")
    return value


_PARAMETERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "allowCleartextPasswords": ("allow_cleartext_passwords", _bool),
    "charset": ("charset", _charset),
    "collation": ("collation", _collation),
    "maxAllowedPacket": ("max_allowed_packet", _bytes),
    "readTimeout": ("read_timeout", _seconds),
    "timeout": ("timeout", _seconds),
    "tls": ("tls", _tls),
    "writeTimeout": ("write_timeout", _seconds),
}
