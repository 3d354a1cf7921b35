"""The certificates a server without configuration files makes for itself, beside its database, at its first start."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from cryptography import x509

from fleetspeak.config import certificatefiles
from fleetspeak.config.certificatefiles import Credentials

_RENEW_BEFORE = 30 * 24 * 3600
"""Seconds before its end at which the server's certificate is made anew, at a start of the server."""

_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  (compared with, not bound to)


@dataclass(frozen=True, slots=True)
class Paths:
    """The files beside ``fleetspeak.sqlite``: ``fleetspeak-ca.pem`` and so on."""

    ca: Path
    ca_key: Path
    server: Path
    server_key: Path

    @classmethod
    def beside(cls, database: Path) -> Paths:
        def name(end: str) -> Path:
            return database.with_name(f"{database.stem}-{end}.pem")

        return cls(name("ca"), name("ca-key"), name("server"), name("server-key"))


def read_or_make(paths: Paths, hosts: Sequence[str], now: float) -> Credentials:
    """The server's certificate for these names and addresses, and its key.

    The authority is made once and kept for good: the clients know it.  The server's certificate is made anew when it
    runs out, or when this machine goes by another name or address than it did.

    @param now: seconds since the epoch.
    @raise ConfigError: a file cannot be read or written.
    """
    authority = _authority(paths, now)
    if paths.server.exists():
        old = certificatefiles.read(paths.server, paths.server_key)
        if old.certificate.not_valid_after_utc.timestamp() - now > _RENEW_BEFORE and _covers(old.certificate, hosts):
            return old
    return certificatefiles.issue_server(authority, paths.server, paths.server_key, "Fleetspeak Server", hosts, now)


def own_hosts(listen_host: str) -> list[str]:
    """The names and addresses by which clients may know this machine, best first.  Asks no name server.

    @param listen_host: where the server listens; empty or a wildcard for every address.
    """
    name = socket.gethostname()
    usual = [*([name] if name and name.isascii() else []), "localhost", "127.0.0.1", "::1"]
    if listen_host not in _WILDCARDS:
        return list(dict.fromkeys([listen_host, *usual]))
    addresses = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6) and "%" not in entry.address
    ]
    return list(dict.fromkeys([*usual, *addresses]))


def _authority(paths: Paths, now: float) -> Credentials:
    if paths.ca.exists():
        return certificatefiles.read(paths.ca, paths.ca_key)
    return certificatefiles.make_authority(paths.ca, paths.ca_key, "Fleetspeak CA", now)


def _covers(certificate: x509.Certificate, hosts: Sequence[str]) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    present = set(names.get_values_for_type(x509.DNSName))
    present.update(str(address) for address in names.get_values_for_type(x509.IPAddress))
    return present.issuperset(hosts)
