"""Signatures that plug-ins add to each contact, and what the server makes of them (client-core 9.4)."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.verify import verifyObject

from fleetspeak.client.link import Link
from fleetspeak.interfaces import IContactSigner
from fleetspeak.pb import common
from fleetspeak.wire import contact as wire_contact
from tests.client.wholeclient import WholeClientCase
from tests.server.contact.world import ADDRESS, Gatekeeper, World, identity

_Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

SHA256_RSA, ECDSA_SHA256 = 4, 10


def certificate(key: _Key, serial: int) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "signer")])
    now = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + datetime.timedelta(1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@implementer(IPlugin, IContactSigner)
class Signer:
    """Signs with a key of its own; with ECDSA over the given hash, whatever it claims."""

    def __init__(self, key: _Key, serial: int, digest: hashes.HashAlgorithm) -> None:
        self.name = f"serial {serial}"
        self.key = key
        self.digest = digest
        self.certificate = certificate(key, serial)

    def sign(self, contact_data: bytes) -> common.Signature:
        if isinstance(self.key, rsa.RSAPrivateKey):
            algorithm, signature = SHA256_RSA, self.key.sign(contact_data, padding.PKCS1v15(), self.digest)
        else:
            algorithm, signature = ECDSA_SHA256, self.key.sign(contact_data, ec.ECDSA(self.digest))
        return common.Signature(certificate=[self.certificate], algorithm=algorithm, signature=signature)


class Broken(Signer):
    def sign(self, contact_data: bytes) -> common.Signature:
        raise OSError("the TPM is gone")


class SignerTests(WholeClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.signers = [
            Signer(rsa.generate_private_key(65537, 2048), 42, hashes.SHA256()),
            Signer(ec.generate_private_key(ec.SECP224R1()), 49, hashes.SHA256()),
            Signer(ec.generate_private_key(ec.SECP224R1()), 50, hashes.SHA1()),
        ]

    def contact(self) -> bytes:
        link: Link = self.server.link
        return link.contact([], first=True)

    def test_item_127_the_server_sees_three_signatures_valid_valid_and_invalid(self) -> None:
        for signer in self.signers:
            verifyObject(IContactSigner, signer)
        self.start(signers=self.signers)
        gatekeeper = Gatekeeper()
        world = World(gatekeeper)
        wrapped = wire_contact.unwrap(self.contact())
        self.successResultOf(Deferred.fromCoroutine(world.contacts.first(ADDRESS, identity(), wrapped)))
        (checked,) = [told for stage, told in gatekeeper.told if stage == "signatures"]
        self.assertEqual(
            [(one.certificates[0].serial_number, one.algorithm, one.valid) for one in checked],
            [(42, 4, True), (49, 10, True), (50, 10, False)],
        )

    def test_one_that_fails_leaves_the_others_and_the_contact(self) -> None:
        self.start(signers=[Broken(ec.generate_private_key(ec.SECP224R1()), 1, hashes.SHA256()), *self.signers[:1]])
        wrapped = wire_contact.unwrap(self.contact())
        self.assertEqual([signature.algorithm for signature in wrapped.signatures], [4])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_without_signers_there_is_no_signature(self) -> None:
        self.start(signers=[])
        self.assertEqual(list(wire_contact.unwrap(self.contact()).signatures), [])
