"""Extra signatures over a contact, checked with the first certificate's key."""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512, HashAlgorithm

from fleetspeak.core.authorization import CheckedSignature
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

_Verify = Callable[[object, bytes, bytes], None]


def check(wrapped: common.WrappedContactData) -> list[CheckedSignature]:
    """Check each.  One that does not verify is no error: the authorizer decides what it means.

    Raises ProtocolError if a certificate is none.
    """
    return [_check_one(signature, wrapped.contact_data) for signature in wrapped.signatures]


def _check_one(signature: common.Signature, data: bytes) -> CheckedSignature:
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in signature.certificate]
    except ValueError as error:
        raise ProtocolError(f"unable to parse the certificate of a signature: {error}") from None
    valid = bool(certificates) and _verifies(certificates[0], signature, data)
    return CheckedSignature(certificates, signature.algorithm, valid)


def _verifies(certificate: x509.Certificate, signature: common.Signature, data: bytes) -> bool:
    verify = _ALGORITHMS.get(signature.algorithm)
    if verify is None:
        return False
    try:
        verify(certificate.public_key(), signature.signature, data)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _pkcs1(digest: HashAlgorithm) -> _Verify:
    def verify(key: object, signature: bytes, data: bytes) -> None:
        if not isinstance(key, rsa.RSAPublicKey):
            raise TypeError("not an RSA key")
        key.verify(signature, data, padding.PKCS1v15(), digest)

    return verify


def _pss(digest: HashAlgorithm) -> _Verify:
    def verify(key: object, signature: bytes, data: bytes) -> None:
        if not isinstance(key, rsa.RSAPublicKey):
            raise TypeError("not an RSA key")
        key.verify(signature, data, padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH), digest)

    return verify


def _ecdsa(digest: HashAlgorithm) -> _Verify:
    def verify(key: object, signature: bytes, data: bytes) -> None:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise TypeError("not an EC key")
        key.verify(signature, data, ec.ECDSA(digest))

    return verify


_ALGORITHMS: dict[int, _Verify] = {
    3: _pkcs1(SHA1()),  # noqa: S303  (upstream accepts SHA-1; the authorizer sees the number and may not)
    4: _pkcs1(SHA256()),
    5: _pkcs1(SHA384()),
    6: _pkcs1(SHA512()),
    9: _ecdsa(SHA1()),  # noqa: S303
    10: _ecdsa(SHA256()),
    11: _ecdsa(SHA384()),
    12: _ecdsa(SHA512()),
    13: _pss(SHA256()),
    14: _pss(SHA384()),
    15: _pss(SHA512()),
}
"""By Go's numbers.  The MD2, MD5 and DSA forms (1, 2, 7, 8) never verify; beyond 15 is unknown."""
