"""At the door of the admin port: who a caller is, and whether he may make this call.

Used in the threads of grpc; what it knows of callers is replaced as a whole when the access file changes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from twisted.logger import Logger

from fleetspeak.config.addresses import is_loopback
from fleetspeak.config.adminaccess import AdminAccess
from fleetspeak.core.adminaccess import Callers, Role, certificate_names, rpc_of
from fleetspeak.server.admin.operations import Refused

if TYPE_CHECKING:
    import grpc

LOG_INTERVAL = 10.0
"""Seconds between two lines in the log about callers who were refused."""

MAX_TOKEN = 512
"""Characters of a token that are looked at."""

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_PEER = re.compile(r"ipv[46]:(?:\[(?P<six>.*)\]|(?P<four>[^:]*)):[0-9]+")

log = Logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call."""

    name: str
    address: str
    """``ip:port``, IPv6 in brackets; ``unix`` for a local socket."""
    role: Role


class Denied(Refused):
    """A caller may not make this call; what is known of him is in `caller`."""

    def __init__(self, code: str, text: str, caller: Caller) -> None:
        super().__init__(code, text)
        self.caller = caller


class Guard:
    """Says who may pass."""

    def __init__(self, access: AdminAccess | None = None, seconds: Callable[[], float] = time.monotonic) -> None:
        """@param access: None: everybody may do everything, as on upstream's port."""
        self._seconds = seconds
        self._next_line = seconds()
        self._unsaid = 0
        self.use(access)

    def use(self, access: AdminAccess | None) -> None:
        """From now on this counts.  May be called in any thread."""
        callers = Callers(access.callers) if access is not None else Callers()
        self._in_force = access, callers  # at once, for threads that look at it meanwhile

    def admit(self, method: str, context: grpc.ServicerContext) -> Caller:
        """Who makes this call, if he may.

        @param method: the full name of the RPC, such as ``fleetspeak.server.Admin/ListClients``.
        @raise Denied: he may not; the text says what he can do about it.
        """
        caller = self._identify(context)
        needed = rpc_of(method).role
        if caller.role < needed:
            raise self._denied(
                "PERMISSION_DENIED", f"{caller.name} is {_a(caller.role)}; {method} needs role {needed}", caller, method
            )
        return caller

    def check_request(self, method: str, request: Any, caller: Caller) -> None:
        """Look at what is asked for, as far as the role that it needs depends on it.  Raises Denied."""
        shows_payloads = rpc_of(method).shows_payloads
        if shows_payloads is not None and caller.role < Role.OPERATOR and shows_payloads(request):
            text = f"{caller.name} is {_a(caller.role)}; payloads are shown to role {Role.OPERATOR}"
            raise self._denied("PERMISSION_DENIED", text, caller, method)

    def _identify(self, context: grpc.ServicerContext) -> Caller:
        access, callers = self._in_force
        address, is_local = _peer(context.peer())
        if access is None:
            return Caller("anonymous", address, Role.ADMIN)
        tokens = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        if tokens:
            return self._by_token(tokens, callers, address)
        presented: Any = context.auth_context()  # lists of bytes by name
        if certificate := presented.get("x509_pem_cert"):
            return self._by_certificate(certificate[0], callers, address)
        if address == "unix" and access.unix_socket is not None:
            return Caller("anonymous", address, access.unix_socket.role)
        if is_local and presented.get("transport_security_type") in (None, [b"insecure"]) and access.local_role:
            return Caller("anonymous", address, access.local_role)
        text = "who are you? Send metadata authorization: Bearer TOKEN"
        if access.tls is not None and access.tls.client_ca is not None:
            text += ", or connect with a client certificate"
        raise self._denied("UNAUTHENTICATED", text, Caller("unknown", address, Role.NOBODY))

    def _by_token(self, values: list[str | bytes], callers: Callers, address: str) -> Caller:
        value = values[0] if len(values) == 1 else ""
        match = _BEARER.fullmatch(value) if isinstance(value, str) and len(value) <= MAX_TOKEN else None
        known = callers.by_token(match[1]) if match else None
        if known is None:
            text = (
                "the token is not known here; have one made with fleetspeak admin-token, and its hash put into the "
                "server's access file"
            )
            raise self._denied("UNAUTHENTICATED", text, Caller("unknown", address, Role.NOBODY))
        return Caller(known.name, address, known.role)

    def _by_certificate(self, pem: bytes, callers: Callers, address: str) -> Caller:
        names = certificate_names(pem)
        known = callers.by_names(names)
        if known is None:
            name = names[0] if names else "a certificate without names"
            text = (
                f"{name} is nobody in the server's access file; have it added there: "
                f'caller {{ name: "..." role: ... certificate: "{names[0] if names else "CN:..."}" }}'
            )
            raise self._denied("PERMISSION_DENIED", text, Caller(name, address, Role.NOBODY))
        return Caller(known.name, address, known.role)

    def _denied(self, code: str, text: str, caller: Caller, method: str = "") -> Denied:
        now = self._seconds()
        self._unsaid += 1
        if now >= self._next_line:
            self._next_line = now + LOG_INTERVAL
            count, self._unsaid = self._unsaid, 0
            log.warn(
                "admin API: refused {caller} at {address} ({code} {method}); {count} since the last such line",
                caller=caller.name,
                address=caller.address,
                code=code,
                method=method,
                count=count,
            )
        return Denied(code, text, caller)


def _peer(peer: str) -> tuple[str, bool]:
    """grpc's name of a peer as ``ip:port``, or ``unix``; and whether it is on this machine."""
    if peer.startswith("unix:"):
        return "unix", True
    peer = unquote(peer)
    match = _PEER.fullmatch(peer)
    if match is None:
        return peer, False
    return peer.partition(":")[2], is_loopback(match["six"] or match["four"] or "")


def _a(role: Role) -> str:
    return "nobody" if role is Role.NOBODY else f"{'a' if role is Role.VIEWER else 'an'} {role}"
