from __future__ import annotations

import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak import ids
from fleetspeak.errors import NotAuthorized, ProtocolError
from fleetspeak.records import ClientData
from fleetspeak.security import certificates, keys
from fleetspeak.server.contact.identify import check_key, identify

VECTORS = Path(__file__).parents[2] / "vectors"
NOW = 1_700_000_000.0


def certificate_for(key: object) -> x509.Certificate:
    """Self-signed, where the key can sign at all; else signed by another."""
    signer = keys.generate()
    template = certificates.client_certificate(signer, ids.ClientId(b"12345678"), NOW)
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(1)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    return builder.sign(signer, hashes.SHA256())


class IdentifyTests(SynchronousTestCase):
    def test_upstreams_certificate(self) -> None:
        """server-core 2.1 step 1: a certificate of the released client, which is dated in the year 1."""
        vector = json.loads((VECTORS / "client_certificate.json").read_text())
        certificate = x509.load_der_x509_certificate(bytes.fromhex(vector["certificate_der_hex"]))
        self.assertEqual(identify([certificate]).client_id.hex(), vector["client_id"])

    def test_our_clients_certificate(self) -> None:
        key = keys.generate()
        client_id = ids.client_id_of_key(keys.public_der(key))
        found = identify([certificates.client_certificate(key, client_id, NOW)])
        self.assertEqual(found, (keys.public_der(key), client_id))

    def test_every_kind_of_key_that_gives_an_id(self) -> None:
        for key in (
            ec.generate_private_key(ec.SECP224R1()),
            ec.generate_private_key(ec.SECP384R1()),
            ec.generate_private_key(ec.SECP521R1()),
            ed25519.Ed25519PrivateKey.generate(),
            rsa.generate_private_key(65537, 1024),
        ):
            self.assertEqual(len(identify([certificate_for(key)]).client_id), 8)

    def test_other_kinds_are_refused(self) -> None:
        """server-core 2.1 step 1."""
        for key in (dsa.generate_private_key(1024), ec.generate_private_key(ec.SECP256K1())):
            with self.assertRaisesRegex(ProtocolError, "unable to create client id"):
                identify([certificate_for(key)])

    def test_no_certificate(self) -> None:
        with self.assertRaisesRegex(ProtocolError, "expected 1 client cert, received 0"):
            identify([])

    def test_two_certificates(self) -> None:
        one = certificate_for(keys.generate())
        with self.assertRaisesRegex(ProtocolError, "expected 1 client cert, received 2"):
            identify([one, one])


class CheckKeyTests(SynchronousTestCase):
    def test_a_new_client_and_the_same_key(self) -> None:
        someone = identify([certificate_for(keys.generate())])
        check_key(someone, None)
        check_key(someone, ClientData(someone.key))

    def test_another_key_with_the_same_id(self) -> None:
        """server-core.md 2.1, improve: compare full keys for a known client and refuse on difference."""
        someone = identify([certificate_for(keys.generate())])
        with self.assertRaises(NotAuthorized):
            check_key(someone, ClientData(b"another key"))
