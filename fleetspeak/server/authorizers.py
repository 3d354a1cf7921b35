"""The built-in authorizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zope.interface import implementer

from fleetspeak.core.authorization import CheckedSignature, Claimed
from fleetspeak.interfaces import IAuthorizer
from fleetspeak.records import ClientData


@implementer(IAuthorizer)
class AllowAll:
    """Lets everyone in who holds a key."""

    def allow_connection(self, address: str) -> bool:
        """Yes."""
        return True

    def allow_contact(self, address: str, claim: Claimed) -> bool:
        """Yes."""
        return True

    def allow_client(self, address: str, claim: Claimed, client: ClientData | None) -> bool:
        """Yes."""
        return True

    def validate(
        self, address: str, claim: Claimed, client: ClientData | None, signatures: Sequence[CheckedSignature]
    ) -> Mapping[str, str] | None:
        """Yes, and nothing to note."""
        return {}


class RequiredLabel(AllowAll):
    """Lets in who claims a certain label: keeps a misconfigured client out, not a malicious one."""

    def __init__(self, label: str) -> None:
        self._label = label

    def allow_contact(self, address: str, claim: Claimed) -> bool:
        """Only with the label among the claimed ones."""
        return self._label in claim.labels
