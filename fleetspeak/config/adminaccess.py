"""The access file of the admin port: who may do what there, and with which certificates.

It is believed only if nobody but root and the user of the server can have written it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fleetspeak.config import certificatefiles, textproto
from fleetspeak.config.addresses import is_loopback, parse_listen, show
from fleetspeak.config.trust import Trust
from fleetspeak.core.adminaccess import KINDS, Known, Role
from fleetspeak.errors import ConfigError
from fleetspeak.pb import access

if TYPE_CHECKING:
    from fleetspeak.config.server import ServerSettings

Address = tuple[str, int]

MAX_NAME = 128
"""Characters in the name of a caller."""

_HASH_SIZE = 32
_SOCKET_PATH_SIZE = 100
"""Bytes in the path of a socket that every system takes."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What is in the files that `tls` names."""

    certificate: bytes
    """PEM, the server's own first."""
    key: bytes = field(repr=False)
    client_ca: bytes | None
    """PEM; None: callers need no certificate."""


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """Where a local socket is, and for whom."""

    path: Path
    role: Role
    group: str = ""


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """An access file that was read and checked, with the certificates it names."""

    tls: TlsFiles | None = None
    callers: tuple[Known, ...] = ()
    local_role: Role = Role.NOBODY
    """Of who presents nothing, in plaintext on this machine."""
    token_address: Address | None = None
    """With TLS, without certificates of callers."""
    local_address: Address | None = None
    """On loopback, in plaintext."""
    unix_socket: UnixSocket | None = None
    paths: tuple[Path, ...] = ()
    """All files that were read."""


def read_access(path: Path) -> AdminAccess:
    """Read an access file, and the files that it names.

    @raise ConfigError: it cannot be used; the text says where it is wrong and what was expected.
    """
    trust = Trust(or_else="")
    try:
        trust.check_way_to(path)
        parsed = textproto.read(path, access.AdminAccess, opened=trust.open)
    except OSError as error:
        raise ConfigError(f"unable to read the access file {path}: {error.strerror}") from None
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        text = ""
    return _Checker(path, text, trust).checked(parsed)


def with_access(settings: ServerSettings, path: str | None, plaintext_anywhere: bool) -> ServerSettings:
    """The settings of a server with the access file at `path`, if there is one.

    @raise ConfigError: it cannot be used, or the admin port would be open to others.
    """
    if settings.admin_address is None:
        if path is not None:
            raise ConfigError(f"--admin-access {path}: there is no admin port; give it an address with admin_config")
        return settings
    found = None if path is None else read_access(Path(path).absolute())
    refuse_exposed(settings.admin_address, found, plaintext_anywhere)
    return replace(settings, admin_access=found)


def refuse_exposed(address: Address, settings: AdminAccess | None, plaintext_anywhere: bool) -> None:
    """Refuse an admin port that others could use or listen to, unless that is wanted in so many words.

    @raise ConfigError: says what to do.
    """
    host, port = address
    if is_loopback(host) or plaintext_anywhere or (settings is not None and settings.tls is not None):
        return
    where = show(host, port)
    who = (
        "everybody who reaches it could do everything"
        if settings is None
        else "tokens could be read by everybody on the way"
    )
    raise ConfigError(
        f'failed to initialize admin server: the admin port is to listen on "{where}", which is not only this machine, '
        f"in plaintext: {who}. Do one of these: let it listen on localhost:{port}; "
        f"{'give' if settings is None else 'in the file of'} --admin-access{' FILE with' if settings is None else ''} "
        "tls { certificate_file: ... key_file: ... }; or, if your network keeps all others away from it, "
        "give --admin-plaintext-anywhere"
    )


class _Checker:
    """Checks one access file; errors name it, and the line where possible."""

    def __init__(self, path: Path, text: str, trust: Trust) -> None:
        self._path = path
        self._trust = trust
        self._lines = text.splitlines()

    def checked(self, parsed: access.AdminAccess) -> AdminAccess:
        """The settings.  Raises ConfigError."""
        tls, paths = self._tls(parsed)
        callers = tuple(self._callers(parsed, tls is not None and tls.client_ca is not None))
        local = Role(parsed.local_plaintext.role)
        if parsed.HasField("local_plaintext") and local is Role.NOBODY:
            raise self._error("local_plaintext", "role is missing; expected VIEWER, OPERATOR or ADMIN")
        if not callers and local is Role.NOBODY and not parsed.HasField("unix_socket"):
            raise self._error(
                "", 'nobody may do anything; expected caller { name: "..." role: ADMIN ... } at least once'
            )
        return AdminAccess(
            tls=tls,
            callers=callers,
            local_role=local,
            token_address=self._address("token_address", parsed.tls.token_address),
            local_address=self._local_address(parsed),
            unix_socket=self._socket(parsed.unix_socket) if parsed.HasField("unix_socket") else None,
            paths=(self._path, *paths),
        )

    def _tls(self, parsed: access.AdminAccess) -> tuple[TlsFiles | None, tuple[Path, ...]]:
        if not parsed.HasField("tls"):
            return None, ()
        tls = parsed.tls
        for name in ("certificate_file", "key_file"):
            if not getattr(tls, name):
                raise self._error("tls", f"{name} is missing")
        if tls.token_address and not tls.client_ca_file:
            raise self._error("token_address", "it is needed with client_ca_file only: without, all use tokens")
        certificate, key = self._beside(tls.certificate_file), self._beside(tls.key_file)
        _refuse_open_key(key)
        credentials = certificatefiles.read(certificate, key)
        paths = [certificate, key]
        client_ca = None
        if tls.client_ca_file:
            client_ca_path = self._beside(tls.client_ca_file)
            client_ca = certificatefiles.read_certificate(client_ca_path)[0].encode()
            paths.append(client_ca_path)
        return TlsFiles(credentials.pem.encode(), credentials.key_pem.encode(), client_ca), tuple(paths)

    def _callers(self, parsed: access.AdminAccess, certificates: bool) -> Iterator[Known]:
        seen: dict[str, str] = {}
        for index, caller in enumerate(parsed.caller):
            where = f'caller "{caller.name}"' if caller.name else f"caller [{index}]"
            if not caller.name or len(caller.name) > MAX_NAME or not caller.name.isprintable():
                raise self._error("caller", f"{where}: name must have 1 to {MAX_NAME} printable characters")
            if caller.role == access.NOBODY:
                raise self._error(caller.name, f"{where}: role is missing; expected VIEWER, OPERATOR or ADMIN")
            if not caller.certificate and not caller.token_sha256:
                raise self._error(caller.name, f"{where}: expected certificate or token_sha256 at least once")
            hashes = tuple(self._hash(where, text) for text in caller.token_sha256)
            for name in caller.certificate:
                self._check_name(where, name, certificates)
            tokens = [one.hex() for one in hashes]
            for what, unique in (
                ("its name", f" {caller.name}"),
                *(("one of its certificates", name) for name in caller.certificate),
                *(("one of its tokens", one) for one in tokens),
            ):
                if unique in seen:
                    raise self._error(caller.name, f"{where}: {what} is there already, in {seen[unique]}")
                seen[unique] = where
            yield Known(caller.name, Role(caller.role), tuple(caller.certificate), hashes)

    def _hash(self, where: str, text: str) -> bytes:
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b""
        if len(raw) != _HASH_SIZE:
            raise self._error(
                text,
                f"{where}: token_sha256 is no SHA-256 in hexadecimal; make a token with: fleetspeak admin-token NAME",
            )
        return raw

    def _check_name(self, where: str, name: str, certificates: bool) -> None:
        if not name.startswith(KINDS) or name in KINDS:
            raise self._error(name, f'{where}: a certificate is named such as "CN:alice"; kinds are {", ".join(KINDS)}')
        if not certificates:
            raise self._error(
                name, f"{where}: callers are asked for certificates only with tls {{ client_ca_file: ... }}"
            )

    def _local_address(self, parsed: access.AdminAccess) -> Address | None:
        address = self._address("address", parsed.local_plaintext.address)
        if address is not None and not is_loopback(address[0]):
            raise self._error(
                parsed.local_plaintext.address, "local_plaintext is for this machine only; expected localhost:PORT"
            )
        if address is not None and not parsed.HasField("tls"):
            raise self._error(
                "local_plaintext", "without tls the admin port is in plaintext itself; leave the address out"
            )
        return address

    def _address(self, name: str, text: str) -> Address | None:
        if not text:
            return None
        try:
            return parse_listen(text)
        except ConfigError as error:
            raise self._error(text, f"{name}: {error}") from None

    def _socket(self, socket: access.AdminSocket) -> UnixSocket:
        path = Path(socket.path)
        if not path.is_absolute() or len(os.fsencode(path)) > _SOCKET_PATH_SIZE:
            raise self._error("unix_socket", f"path: expected an absolute path of at most {_SOCKET_PATH_SIZE} bytes")
        if socket.role == access.NOBODY:
            raise self._error("unix_socket", "role is missing; expected VIEWER, OPERATOR or ADMIN")
        return UnixSocket(path, Role(socket.role), socket.group)

    def _beside(self, name: str) -> Path:
        """The path of a file that is named in this one, which nobody else can have written either."""
        path = self._path.parent / name
        try:
            self._trust.check_way_to(path)
            self._trust.open(path).close()
        except OSError as error:
            raise ConfigError(f"unable to read {path}: {error.strerror}") from None
        return path

    def _error(self, text: str, problem: str) -> ConfigError:
        """An error at the first line that has `text` in it."""
        line = next((number for number, line in enumerate(self._lines, 1) if text and text in line), 0)
        return ConfigError(f"{self._path}:{f'{line}:' if line else ''} {problem}")


def _refuse_open_key(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"unable to read {path}: {error.strerror}") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(f"{path} is a key that everybody may read; mend it with: chmod o-rw {path}")
