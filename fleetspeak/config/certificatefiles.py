"""An authority, and the server certificate it issued, in files: read if they exist, made if they do not.

Keys are written with mode 0600; nothing is ever half written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.x509 import Certificate

from fleetspeak.errors import ConfigError
from fleetspeak.security import certificates, files
from fleetspeak.security.certificates import SigningKey


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate with its key."""

    pem: str
    """The certificate file's text; behind the certificate itself it may hold those up to the authority."""
    certificate: Certificate
    """The first one in it."""
    key: SigningKey

    @property
    def key_pem(self) -> str:
        return certificates.key_to_pem(self.key)


def make_authority(certificate_path: Path, key_path: Path, name: str, now: float) -> Credentials:
    """Make a new authority of that common name.  `now`: seconds since the epoch.  Raises ConfigError."""
    certificate, key = certificates.make_authority(name, now)
    return _write(Credentials(certificates.to_pem(certificate), certificate, key), certificate_path, key_path)


def issue_server(
    authority: Credentials, certificate_path: Path, key_path: Path, name: str, hosts: Iterable[str], now: float
) -> Credentials:
    """Issue a server certificate for these names and addresses.  Raises ConfigError."""
    try:
        certificate, key = certificates.issue_server(authority.certificate, authority.key, name, hosts, now)
    except ValueError as error:
        raise ConfigError(f"unable to make a server certificate: {error}") from None
    return _write(Credentials(certificates.to_pem(certificate), certificate, key), certificate_path, key_path)


def read(certificate_path: Path, key_path: Path) -> Credentials:
    """Read both files and check that they belong together.  Raises ConfigError."""
    pem, certificate = read_certificate(certificate_path)
    key = read_key(key_path)
    if not certificates.belong_together(certificate, key):
        raise ConfigError(f"the certificate in {certificate_path} and the key in {key_path} do not belong together")
    return Credentials(pem, certificate, key)


def read_certificate(path: Path) -> tuple[str, Certificate]:
    """The text of a PEM file and the first certificate in it.  Raises ConfigError."""
    text = _read(path)
    try:
        return text, certificates.load_certificates(text)[0]
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_key(path: Path) -> SigningKey:
    """The private key in a PEM file.  Raises ConfigError."""
    try:
        return certificates.load_key(_read(path))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"unable to read {path}: {error.strerror}") from None


def _write(made: Credentials, certificate_path: Path, key_path: Path) -> Credentials:
    """The key first: a certificate file that exists always has its key."""
    try:
        files.write_atomically(key_path, made.key_pem.encode(), files.PRIVATE)
        files.write_atomically(certificate_path, made.pem.encode(), files.PUBLIC)
    except OSError as error:
        raise ConfigError(f"unable to write {error.filename or certificate_path}: {error.strerror}") from None
    return made
