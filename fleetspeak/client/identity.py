"""Who the client is: a key, the id made from it, and the certificate that proves it."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509 import Certificate

from fleetspeak.ids import ClientId, client_id_of_key
from fleetspeak.security import keys
from fleetspeak.security.certificates import client_certificate


@dataclass(frozen=True, slots=True)
class KeyedIdentity:
    """One identity; it never changes, a rekey makes another one."""

    client_id: ClientId
    key: EllipticCurvePrivateKey
    certificate: Certificate
    """Self-signed with the key."""


def identity_of(key: EllipticCurvePrivateKey, now: float) -> KeyedIdentity:
    """The identity that a key gives; `now` in seconds since the Unix epoch dates its certificate."""
    client_id = client_id_of_key(keys.public_der(key))
    return KeyedIdentity(client_id, key, client_certificate(key, client_id, now))


def load_identity(sec1_der: bytes, now: float) -> KeyedIdentity:
    """The identity of a key in SEC 1 DER.  Raises ValueError if it is none."""
    return identity_of(keys.load_sec1(sec1_der), now)


def new_identity(now: float) -> KeyedIdentity:
    """An identity that nobody had before."""
    return identity_of(keys.generate(), now)
