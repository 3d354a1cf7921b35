"""Who is calling: from the certificate that proved possession of a key to the client's id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetspeak import ids
from fleetspeak.errors import NotAuthorized, ProtocolError
from fleetspeak.ids import ClientId
from fleetspeak.records import ClientData

_KNOWN_KEYS = (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey, x25519.X25519PublicKey)
_KNOWN_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


class Identity(NamedTuple):
    """A client as its connection proves it."""

    key: bytes
    """DER SubjectPublicKeyInfo."""
    client_id: ClientId


def identify(certificates: Sequence[x509.Certificate]) -> Identity:
    """The identity of the peer that presented these certificates.

    Nothing but the public key is looked at: names, dates and signature are the client's own.
    Raises ProtocolError unless there is exactly one certificate, with a key of a kind that gives a client id.
    """
    if len(certificates) != 1:
        raise ProtocolError(f"expected 1 client cert, received {len(certificates)}")
    key = _public_der(certificates[0])
    return Identity(key, ids.client_id_of_key(key))


def check_key(identity: Identity, client: ClientData | None) -> None:
    """Raise NotAuthorized if another key is stored under this client id.

    An id is only 64 bits of a hash, so a second key with the same id can be searched for.
    """
    if client is not None and client.key != identity.key:
        raise NotAuthorized("another key is known for this client id", "key")


def _public_der(certificate: x509.Certificate) -> bytes:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProtocolError("public key not present in client cert") from error
    return der_of(key)


def der_of(key: object) -> bytes:
    """The one form of a public key that a client id is made of.  Raises ProtocolError: no client has such a key."""
    curve = key.curve if isinstance(key, ec.EllipticCurvePublicKey) else None
    if not isinstance(key, _KNOWN_KEYS) or (curve is not None and not isinstance(curve, _KNOWN_CURVES)):
        raise ProtocolError("unable to create client id from public key: this kind of key is not supported")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
