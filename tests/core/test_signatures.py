"""server-core 2.2: extra signatures over a contact."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.signatures import check
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common

DATA = b"serialized contact data"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP224R1())
ED = ed25519.Ed25519PrivateKey.generate()

_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def _certificate(key: _Key, serial: int) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "signer")])
    now = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + datetime.timedelta(1))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


RSA_CERTIFICATE, EC_CERTIFICATE, ED_CERTIFICATE = (_certificate(key, 42 + n) for n, key in enumerate((RSA, EC, ED)))


def _pkcs1(hash_: hashes.HashAlgorithm) -> bytes:
    return RSA.sign(DATA, padding.PKCS1v15(), hash_)


def _pss(hash_: hashes.HashAlgorithm, salt: int | None = None) -> bytes:
    return RSA.sign(DATA, padding.PSS(padding.MGF1(hash_), salt or hash_.digest_size), hash_)


def _ecdsa(hash_: hashes.HashAlgorithm) -> bytes:
    return EC.sign(DATA, ec.ECDSA(hash_))


def _is_valid(algorithm: int, signature: bytes, *certificates: bytes) -> bool:
    wrapped = common.WrappedContactData(contact_data=DATA)
    wrapped.signatures.add(certificate=certificates, algorithm=algorithm, signature=signature)
    [checked] = check(wrapped)
    assert (checked.algorithm, len(checked.certificates)) == (algorithm, len(certificates))
    return checked.valid


class CheckTests(SynchronousTestCase):
    def test_no_signatures_are_no_news(self) -> None:
        self.assertEqual(check(common.WrappedContactData(contact_data=DATA)), [])

    def test_every_algorithm_that_verifies(self) -> None:
        sha = {1: hashes.SHA1(), 256: hashes.SHA256(), 384: hashes.SHA384(), 512: hashes.SHA512()}
        for algorithm, size in ((3, 1), (4, 256), (5, 384), (6, 512)):
            self.assertTrue(_is_valid(algorithm, _pkcs1(sha[size]), RSA_CERTIFICATE), algorithm)
        for algorithm, size in ((9, 1), (10, 256), (11, 384), (12, 512)):
            self.assertTrue(_is_valid(algorithm, _ecdsa(sha[size]), EC_CERTIFICATE), algorithm)
        for algorithm, size in ((13, 256), (14, 384), (15, 512)):
            self.assertTrue(_is_valid(algorithm, _pss(sha[size]), RSA_CERTIFICATE), algorithm)

    def test_the_others_never_do(self) -> None:
        """MD2, MD5, DSA, and whatever is out of range, such as Ed25519 (16)."""
        for algorithm in (-1, 0, 1, 2, 7, 8, 16, 17, 2**31 - 1):
            for signature, certificate in (
                (_pkcs1(hashes.SHA256()), RSA_CERTIFICATE),
                (_ecdsa(hashes.SHA256()), EC_CERTIFICATE),
                (ED.sign(DATA), ED_CERTIFICATE),
            ):
                self.assertFalse(_is_valid(algorithm, signature, certificate))

    def test_three_signers_of_whom_one_is_broken(self) -> None:
        """client-tests 127: valid, valid, invalid; algorithms 4, 10, 10."""
        wrapped = common.WrappedContactData(contact_data=DATA)
        wrapped.signatures.add(certificate=[RSA_CERTIFICATE], algorithm=4, signature=_pkcs1(hashes.SHA256()))
        wrapped.signatures.add(certificate=[EC_CERTIFICATE], algorithm=10, signature=_ecdsa(hashes.SHA256()))
        wrapped.signatures.add(certificate=[EC_CERTIFICATE], algorithm=10, signature=_ecdsa(hashes.SHA1()))
        checked = check(wrapped)
        self.assertEqual([(one.valid, one.algorithm) for one in checked], [(True, 4), (True, 10), (False, 10)])
        self.assertEqual([one.certificates[0].serial_number for one in checked], [42, 43, 43])

    def test_the_first_certificates_key_counts(self) -> None:
        signature = _pkcs1(hashes.SHA256())
        self.assertTrue(_is_valid(4, signature, RSA_CERTIFICATE, EC_CERTIFICATE))
        self.assertFalse(_is_valid(4, signature, EC_CERTIFICATE, RSA_CERTIFICATE))

    def test_a_key_of_another_kind_is_no_match(self) -> None:
        self.assertFalse(_is_valid(4, ED.sign(DATA), ED_CERTIFICATE))
        self.assertFalse(_is_valid(10, _pkcs1(hashes.SHA256()), RSA_CERTIFICATE))

    def test_pss_with_another_salt_length_is_invalid(self) -> None:
        self.assertFalse(_is_valid(13, _pss(hashes.SHA256(), 20), RSA_CERTIFICATE))

    def test_garbage_is_an_invalid_signature(self) -> None:
        for garbage in (b"", b"x", bytes(256), bytes(5000)):
            for algorithm in range(1, 16):
                self.assertFalse(_is_valid(algorithm, garbage, RSA_CERTIFICATE))
                self.assertFalse(_is_valid(algorithm, garbage, EC_CERTIFICATE))

    def test_a_signature_without_a_certificate_is_invalid_and_ends_nothing(self) -> None:
        """Upstream's server process ends here."""
        self.assertFalse(_is_valid(4, _pkcs1(hashes.SHA256())))

    def test_a_certificate_that_is_none_fails_the_contact(self) -> None:
        self.assertRaises(ProtocolError, _is_valid, 4, b"", b"not DER")
