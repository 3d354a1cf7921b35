"""What an authorizer is told about a contact, and the built-in decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.x509 import Certificate

from fleetspeak.ids import ClientId


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a client says of itself, before anything is looked up."""

    client_id: ClientId
    contact_size: int
    """Bytes of the serialized contact data."""
    labels: Sequence[str]
    """Bare label texts, unverified."""


@dataclass(frozen=True, slots=True)
class CheckedSignature:
    """An extra signature over the contact data, and whether it verified with the first certificate's key.

    Chain, dates and revocation are not looked at; that is for the authorizer.
    """

    certificates: Sequence[Certificate]
    algorithm: int
    """As in Go's crypto/x509."""
    valid: bool
