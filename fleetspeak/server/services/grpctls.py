"""What TLS to the target of a gRPC service is made of: files, which may change while the server runs."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.x509 import Certificate

from fleetspeak.errors import ConfigError
from fleetspeak.security.certificates import (
    SigningKey,
    belong_together,
    load_certificates,
    load_key,
    load_readable_certificates,
)

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+", re.ASCII)
"""Names in a folder of trusted certificates, as OpenSSL looks for them."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a channel trusts and presents."""

    trusted: Sequence[Certificate]
    chain: Sequence[Certificate] = ()
    """The certificate to present to the target, and then those up to its authority."""
    key: SigningKey | None = field(default=None, repr=False)


class TlsFiles:
    """The files that a configuration names.  Reading them blocks, for as long as small files take."""

    def __init__(
        self, where: str, trusted: str, client_certificate: str = "", client_key: str = "", server_name: str = ""
    ) -> None:
        """
        @param where: begins each error.
        @param trusted: empty for what the system trusts.
        @param server_name: what the target's certificate must be for; empty for the host of the target.
        @raise ConfigError: they do not go together.
        """
        if bool(client_certificate) != bool(client_key):
            raise ConfigError(f"{where}: client_cert_file and client_key_file go together, and only one of them is set")
        self._where = where
        self._trusted = trusted
        self._certificate = client_certificate
        self._key = client_key
        self.server_name = server_name
        self._seen: Sequence[object] = ()

    def read(self) -> Credentials:
        """Read and check them.  Raises ConfigError."""
        self._seen = self._state()
        pem = self._read("cert_file", Path(self._trusted)) if self._trusted else self._system()
        trusted = load_readable_certificates(pem.decode("ascii", "replace"))
        if not trusted:
            raise ConfigError(f"{self._where}: there is no PEM certificate in cert_file {self._trusted}")
        if not self._certificate:
            return Credentials(trusted)
        certificate = self._read("client_cert_file", Path(self._certificate))
        key = self._read("client_key_file", Path(self._key))
        return Credentials(trusted, *self._pair(certificate, key))

    def changed(self) -> bool:
        """Whether one of them is another one than when they were read last."""
        return self._state() != self._seen

    def _state(self) -> Sequence[object]:
        return [_state_of(path) for path in (self._trusted, self._certificate, self._key) if path]

    def _pair(self, certificate: bytes, key: bytes) -> tuple[list[Certificate], SigningKey]:
        try:
            chain = load_certificates(certificate.decode("ascii", "replace"))
        except ValueError as error:
            raise ConfigError(f"{self._where}: client_cert_file {self._certificate}: {error}") from None
        try:
            loaded = load_key(key.decode("ascii", "replace"))
        except ValueError as error:
            raise ConfigError(f"{self._where}: client_key_file {self._key}: {error}") from None
        if not belong_together(chain[0], loaded):
            raise ConfigError(
                f"{self._where}: the first certificate in client_cert_file {self._certificate} is not for the key in "
                f"client_key_file {self._key}"
            )
        return chain, loaded

    def _read(self, name: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self._where}: cannot read {name} {path}: {error.strerror}") from error

    def _system(self) -> bytes:
        """What OpenSSL trusts here; gRPC by itself would trust what it brings along."""
        paths = ssl.get_default_verify_paths()
        if paths.cafile is not None:
            return self._read("the system's trusted certificates,", Path(paths.cafile))
        names = sorted(filter(_HASHED.fullmatch, os.listdir(paths.capath))) if paths.capath is not None else []
        if not names:
            raise ConfigError(
                f"{self._where}: this system has no trusted certificates; install the package ca-certificates, or set "
                "cert_file"
            )
        return b"\n".join(self._read("a trusted certificate,", Path(paths.capath, name)) for name in names)


def _state_of(path: str) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
