import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.ids import client_id_of_key
from fleetspeak.security import certificates, keys
from tests import vectors

NOW = 1_800_000_000.5
TODAY = datetime.datetime.fromtimestamp(1_800_000_000, datetime.UTC)


class ClientCertificateTests(SynchronousTestCase):
    def test_item_56_it_is_self_signed_names_the_client_and_is_valid_for_ten_years(self) -> None:
        key = keys.generate()
        client_id = client_id_of_key(keys.public_der(key))
        made = certificates.client_certificate(key, client_id, NOW)
        self.assertEqual(made.subject, made.issuer)
        (organization,) = made.subject
        self.assertEqual((organization.oid, organization.value), (NameOID.ORGANIZATION_NAME, client_id.hex()))
        self.assertEqual((made.version, made.serial_number), (x509.Version.v3, 1))
        self.assertEqual(list(made.extensions), [])
        self.assertIsInstance(made.signature_hash_algorithm, hashes.SHA256)
        self.assertEqual(made.not_valid_before_utc, TODAY - datetime.timedelta(days=1))
        self.assertEqual(made.not_valid_after_utc, TODAY + datetime.timedelta(days=3650))
        made.verify_directly_issued_by(made)

    def test_the_go_clients_certificate_of_the_year_one_loads(self) -> None:
        recorded = vectors.load("client_certificate")
        loaded = x509.load_der_x509_certificate(bytes.fromhex(recorded["certificate_der_hex"]))
        self.assertEqual(loaded.not_valid_before_utc.year, 1)
        self.assertEqual(client_id_of_key(keys.public_der(loaded.public_key())).hex(), recorded["client_id"])


class AuthorityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ca, self.ca_key = certificates.make_authority("Test Fleetspeak CA", NOW)

    def test_the_authority_may_sign_and_is_valid_for_ten_years(self) -> None:
        self.assertTrue(self.ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        self.assertTrue(self.ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign)
        self.assertEqual(self.ca.not_valid_after_utc, TODAY + datetime.timedelta(days=3650))
        self.ca.verify_directly_issued_by(self.ca)

    def test_the_server_certificate_may_not_sign_and_names_the_hosts(self) -> None:
        server, _ = certificates.issue_server(
            self.ca, self.ca_key, "Server", ["fleet.example", "192.0.2.1", "2001:db8::1", "fleet.example"], NOW
        )
        server.verify_directly_issued_by(self.ca)
        extensions = server.extensions
        self.assertFalse(extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        self.assertFalse(extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign)
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.SERVER_AUTH])
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["fleet.example"])
        self.assertEqual(
            names.get_values_for_type(x509.IPAddress),
            [ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")],
        )
        self.assertEqual(server.not_valid_after_utc, TODAY + datetime.timedelta(days=365))

    def test_an_rsa_authority_issues_too(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RSA")])
        ca = (
            x509.CertificateBuilder(name, name, key.public_key(), 7, TODAY, TODAY + datetime.timedelta(1))
            .add_extension(x509.BasicConstraints(True, None), True)
            .sign(key, hashes.SHA256())
        )
        server, _ = certificates.issue_server(ca, key, "Server", ["localhost"], NOW)
        server.verify_directly_issued_by(ca)

    def test_the_issuers_own_id_of_its_key_is_named(self) -> None:
        """Go makes key ids from SHA-256, others from SHA-1; OpenSSL wants them to be equal."""
        own_id = x509.SubjectKeyIdentifier(b"an id of another kind")
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Go's CA")])
        ca = (
            x509.CertificateBuilder(name, name, self.ca_key.public_key(), 7, TODAY, TODAY + datetime.timedelta(1))
            .add_extension(own_id, False)
            .sign(self.ca_key, hashes.SHA256())
        )
        server, _ = certificates.issue_server(ca, self.ca_key, "Server", ["localhost"], NOW)
        issuer_id = server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        self.assertEqual(issuer_id.key_identifier, own_id.digest)


class PemTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ca, self.key = certificates.make_authority("CA", NOW)

    def test_certificates_go_there_and_back_in_order(self) -> None:
        other, _ = certificates.make_authority("other", NOW)
        pem = "some words\n" + certificates.to_pem(self.ca) + certificates.to_pem(other)
        self.assertEqual(certificates.load_certificates(pem), [self.ca, other])

    def test_a_text_without_a_certificate_is_refused(self) -> None:
        for text in ("", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
            with self.assertRaisesRegex(ValueError, "BEGIN CERTIFICATE"):
                certificates.load_certificates(text)

    def test_a_list_of_trusted_ones_may_hold_others_that_cannot_be_read(self) -> None:
        broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        pem = broken + certificates.to_pem(self.ca) + broken
        self.assertEqual(certificates.load_readable_certificates(pem), [self.ca])
        self.assertEqual(certificates.load_readable_certificates(broken), [])

    def test_keys_of_every_usual_form_are_read(self) -> None:
        for key in (self.key, rsa.generate_private_key(65537, 2048)):
            pkcs8 = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode()
            for pem in (pkcs8, certificates.key_to_pem(key)):
                self.assertTrue(keys.public_der(certificates.load_key(pem)) == keys.public_der(key))

    def test_a_key_behind_openssls_parameters_block_is_read(self) -> None:
        pem = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        loaded = certificates.load_key(pem + certificates.key_to_pem(self.key))
        self.assertEqual(keys.public_der(loaded), keys.public_der(self.key))

    def test_an_encrypted_key_is_refused_and_says_so(self) -> None:
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        ).decode()
        with self.assertRaisesRegex(ValueError, "encrypted"):
            certificates.load_key(pem)

    def test_other_kinds_of_keys_and_garbage_are_refused_without_being_quoted(self) -> None:
        strange = (
            ed25519.Ed25519PrivateKey.generate()
            .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            .decode()
        )
        for text in (strange, "c2VjcmV0", certificates.key_to_pem(self.key).replace("EC PRIVATE", "PRIVATE")):
            with self.assertRaises(ValueError) as caught:
                certificates.load_key(text)
            self.assertNotIn("c2VjcmV0", str(caught.exception))

    def test_a_certificate_knows_its_key(self) -> None:
        self.assertTrue(certificates.belong_together(self.ca, self.key))
        self.assertFalse(certificates.belong_together(self.ca, keys.generate()))
