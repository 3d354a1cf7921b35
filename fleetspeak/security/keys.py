"""The keys of clients: ECDSA P-256, kept as SEC 1 (RFC 5915) DER in the client's state."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes


def generate() -> ec.EllipticCurvePrivateKey:
    """A new key, as a client makes one at its first start and whenever it is told to rekey."""
    return ec.generate_private_key(ec.SECP256R1())


def load_sec1(der: bytes) -> ec.EllipticCurvePrivateKey:
    """Read what `dump_sec1` wrote.  Raises ValueError if it is anything but an elliptic curve key."""
    try:
        key = serialization.load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # From None: the cause could quote the bytes of the key.
        raise ValueError("not an elliptic curve private key in DER form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve private key")
    return key


def dump_sec1(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted SEC 1 DER."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def public_der(key: PrivateKeyTypes | PublicKeyTypes) -> bytes:
    """DER SubjectPublicKeyInfo of a private or public key of any kind: what a client id is made of."""
    public = key.public_key() if hasattr(key, "public_key") else key
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
