from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.wire import certheader
from tests import vectors


class CertificateHeaderTests(SynchronousTestCase):
    def test_the_go_clients_header_is_made_byte_for_byte(self) -> None:
        """client-tests 50."""
        recorded = vectors.load("client_certificate")
        certificate = x509.load_der_x509_certificate(bytes.fromhex(recorded["certificate_der_hex"]))
        pem = certificate.public_bytes(Encoding.PEM).decode()
        [header] = [line for line in recorded["poll_headers"] if line.startswith("X-Client-Cert: ")]
        self.assertEqual("X-Client-Cert: " + certheader.encode(pem), header)
        self.assertEqual(unquote(certheader.encode(pem)), pem)

    def test_what_stays_and_what_is_escaped(self) -> None:
        self.assertEqual(certheader.encode("aZ9-_.~$&+=:@"), "aZ9-_.~$&+=:@")
        self.assertEqual(certheader.encode("/ \n;,?#%"), "%2F%20%0A%3B%2C%3F%23%25")
