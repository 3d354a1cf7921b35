"""Who may do what on the admin port: roles, what each RPC needs, and whose a token or a certificate is.

No I/O: tokens and certificates are arguments, and so is what is in the access file.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID


class Role(IntEnum):
    """What somebody may do: everything that a lower role may, and more."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Rpc:
    """What an RPC needs."""

    role: Role
    changes: bool = False
    """Each call is put into the audit trail."""
    together: bool = False
    """Its operation takes the entry of the audit trail, and writes it in the transaction of what it changes."""
    shows_payloads: Callable[[Any], bool] | None = None
    """Of a request: whether its reply holds payloads, for which one must be an operator."""


_LOOK = Rpc(Role.VIEWER)
_CHANGE = Rpc(Role.OPERATOR, changes=True)
_GOVERN = Rpc(Role.ADMIN, changes=True)
_AUDIT = Rpc(Role.ADMIN)
UNKNOWN = _GOVERN
"""What is in no table."""

RPCS: dict[str, Rpc] = {
    "fleetspeak.server.Admin/CreateBroadcast": _CHANGE,
    "fleetspeak.server.Admin/ListActiveBroadcasts": _LOOK,
    "fleetspeak.server.Admin/DisableBroadcasts": _CHANGE,
    "fleetspeak.server.Admin/ListClients": _LOOK,
    "fleetspeak.server.Admin/StreamClientIds": _LOOK,
    "fleetspeak.server.Admin/ListClientContacts": _LOOK,
    "fleetspeak.server.Admin/StreamClientContacts": _LOOK,
    "fleetspeak.server.Admin/GetMessageStatus": _LOOK,
    "fleetspeak.server.Admin/InsertMessage": Rpc(Role.OPERATOR, changes=True, together=True),
    "fleetspeak.server.Admin/DeletePendingMessages": _CHANGE,
    "fleetspeak.server.Admin/GetPendingMessages": Rpc(Role.VIEWER, shows_payloads=lambda request: request.want_data),
    "fleetspeak.server.Admin/GetPendingMessageCount": _LOOK,
    "fleetspeak.server.Admin/StoreFile": _CHANGE,
    "fleetspeak.server.Admin/DeleteFile": _CHANGE,
    "fleetspeak.server.Admin/KeepAlive": _LOOK,
    "fleetspeak.server.Admin/BlacklistClient": _CHANGE,
    "fleetspeak.server.Admin/FetchClientResourceUsageRecords": _LOOK,
    "fleetspeak.operator.Operator/WhoAmI": _LOOK,
    "fleetspeak.operator.Operator/ListClients": _LOOK,
    "fleetspeak.operator.Operator/ListContacts": _LOOK,
    "fleetspeak.operator.Operator/UnblacklistClients": _GOVERN,
    "fleetspeak.operator.Operator/GetEnrolment": _LOOK,
    "fleetspeak.operator.Operator/SetEnrolment": _GOVERN,
    "fleetspeak.operator.Operator/EnrolClient": _GOVERN,
    "fleetspeak.operator.Operator/ListMessages": _LOOK,
    "fleetspeak.operator.Operator/CountMessages": _LOOK,
    "fleetspeak.operator.Operator/RetryMessages": _CHANGE,
    "fleetspeak.operator.Operator/CancelMessages": _CHANGE,
    "fleetspeak.operator.Operator/CreateBroadcast": _CHANGE,
    "fleetspeak.operator.Operator/ListBroadcasts": _LOOK,
    "fleetspeak.operator.Operator/PauseBroadcasts": _CHANGE,
    "fleetspeak.operator.Operator/ResumeBroadcasts": _CHANGE,
    "fleetspeak.operator.Operator/UploadFile": _CHANGE,
    "fleetspeak.operator.Operator/ListFiles": _LOOK,
    "fleetspeak.operator.Operator/ListAuditEntries": _AUDIT,
    "fleetspeak.operator.Operator/ExportAuditEntries": _AUDIT,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _LOOK,
}
"""By full name.  The health service needs nothing, and is not asked about here."""


def rpc_of(method: str) -> Rpc:
    """What a method needs, by its full name without a slash at the beginning."""
    return RPCS.get(method, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Known:
    """An entry of the access file."""

    name: str
    role: Role
    certificates: tuple[str, ...] = ()
    """Names in certificates, such as ``CN:alice``."""
    token_hashes: tuple[bytes, ...] = ()
    """SHA-256 of tokens."""


class Callers:
    """All who are known."""

    def __init__(self, known: Iterable[Known] = ()) -> None:
        everybody = tuple(known)
        self._by_name = {name: one for one in everybody for name in one.certificates}
        self._hashes = [(token_hash, one) for one in everybody for token_hash in one.token_hashes]

    def by_token(self, token: str) -> Known | None:
        """Whose token this is.  Takes the same time whether and whose it is."""
        presented = token_hash(token)
        found = None
        for stored, known in self._hashes:
            if hmac.compare_digest(stored, presented):
                found = known
        return found

    def by_names(self, names: Iterable[str]) -> Known | None:
        """Who one of these names of a certificate, whose chain was checked, belongs to: of the first that is known."""
        return next((self._by_name[name] for name in names if name in self._by_name), None)


def token_hash(token: str) -> bytes:
    """What is kept of a token.

    It is random, of 256 bits: salt and a slow function, which make up for what people choose, would add nothing.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


@lru_cache(maxsize=256)
def certificate_names(pem: bytes) -> tuple[str, ...]:
    """The names in a certificate, each behind its kind.

    Empty if it cannot be read.  A common name counts only if it is the only one.
    """
    try:
        return tuple(_names(x509.load_pem_x509_certificate(pem)))
    except ValueError:
        return ()


def _names(certificate: x509.Certificate) -> Iterator[str]:
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(common) == 1:
        value = common[0].value
        yield f"CN:{value if isinstance(value, str) else value.decode('utf-8', 'replace')}"
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for kind, of_type in (
        ("DNS", x509.DNSName),
        ("EMAIL", x509.RFC822Name),
        ("URI", x509.UniformResourceIdentifier),
    ):
        for name in alternative.get_values_for_type(of_type):
            yield f"{kind}:{name}"


KINDS = ("CN:", "DNS:", "EMAIL:", "URI:")
"""How a name of a certificate begins in the access file."""
