"""Where the admin API listens: its address, and what the access file adds to it."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from fleetspeak.config.adminaccess import Address, AdminAccess, UnixSocket
from fleetspeak.errors import ConfigError
from fleetspeak.server.admin.credentials import Certificates

if TYPE_CHECKING:
    import grpc


class Ports:
    """Opens the ports of one server."""

    def __init__(self, server: grpc.Server, certificates: Certificates | None) -> None:
        """@param certificates: None: plaintext."""
        self._server = server
        self._certificates = certificates
        self.opened: list[tuple[str, str]] = []
        """Where, and how; the main address first."""

    def open(self, address: Address, access: AdminAccess | None) -> str:
        """Open all.  Gives ``host:port`` of the main one.  Raises ConfigError."""
        certificates = self._certificates
        if certificates is None:
            main = self._open(address, self._server.add_insecure_port, "in plaintext")
        else:
            asks = access is not None and access.tls is not None and access.tls.client_ca is not None
            words = "with TLS and client certificates" if asks else "with TLS and tokens"
            main = self._open_with_tls(address, certificates, asks, words)
            if access is not None and access.token_address is not None:
                self._open_with_tls(access.token_address, certificates, False, "with TLS and tokens")
        if access is not None and access.local_address is not None:
            self._open(access.local_address, self._server.add_insecure_port, "in plaintext, for this machine only")
        if access is not None and access.unix_socket is not None:
            self._open_socket(access.unix_socket)
        return main

    def _open_with_tls(self, address: Address, certificates: Certificates, asks: bool, words: str) -> str:
        credentials = certificates.credentials(asks)
        return self._open(address, lambda target: self._server.add_secure_port(target, credentials), words)

    def _open(self, address: Address, add: Callable[[str], int], words: str) -> str:
        host, port = address
        host = f"[{host or '::'}]" if ":" in host or not host else host
        try:
            port = add(f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(
                f"failed to initialize admin server: cannot listen on {host}:{port} "
                "(is the address one of this machine, and the port free?)"
            ) from error
        self.opened.append((f"{host}:{port}", words))
        return f"{host}:{port}"

    def _open_socket(self, wanted: UnixSocket) -> None:
        """Only for its owner from the beginning, and then for the group as well."""
        path = str(wanted.path)
        _refuse_used(path)
        before = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{path}")
            if wanted.group:
                os.chown(path, -1, grp.getgrnam(wanted.group).gr_gid)
                os.chmod(path, 0o660)
        except (RuntimeError, OSError, KeyError) as error:
            reason = f"there is no group {wanted.group}" if isinstance(error, KeyError) else str(error)
            raise ConfigError(
                f"failed to initialize admin server: cannot listen on {path} ({reason}); does its folder exist, and "
                "may the server write to it?"
            ) from error
        finally:
            os.umask(before)
        self.opened.append((f"unix:{path}", "for who may open it"))


def _refuse_used(path: str) -> None:
    """What is left of a server that is gone is replaced; one that is used, and what is no socket, are not."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"failed to initialize admin server: {path} is there already, and no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise ConfigError(f"failed to initialize admin server: another program listens on {path}")
