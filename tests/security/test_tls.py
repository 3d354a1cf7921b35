"""Both sides of TLS, talking to each other in memory."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fleetspeak.errors import ConfigError
from fleetspeak.ids import client_id_of_key
from fleetspeak.security import certificates, keys, tls
from tests import vectors

NOW = time.time()  # OpenSSL looks at the real clock


class Recorder(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.lost = reason


def handshake(server_tls: Any, client_tls: Any) -> tuple[Recorder, Recorder]:
    """Connect the two in memory, let the client say hello, and let it come to rest."""
    clock = Clock()
    protocols = []
    ends = []
    for options, is_client in ((server_tls, False), (client_tls, True)):
        recorder = Recorder()
        factory = Factory()
        factory.buildProtocol = lambda address, recorder=recorder: recorder
        wrapper = TLSMemoryBIOFactory(options, is_client, factory, clock)
        wrapped = wrapper.buildProtocol(None)
        protocols.append(recorder)
        ends.append((wrapped, FakeTransport(wrapped, isServer=not is_client)))
    (server_end, server_io), (client_end, client_io) = ends
    pump = connect(server_end, server_io, client_end, client_io)
    pump.flush()
    protocols[1].transport.write(b"hello")
    clock.advance(0)  # small writes are gathered for one turn of the reactor
    pump.flush()
    return protocols[0], protocols[1]


class Bare:
    """A client's TLS that is not ours: what others' programs or an attacker may do."""

    def __init__(self, prepare: Callable[[SSL.Context], object] = lambda context: None) -> None:
        self.context = SSL.Context(SSL.TLS_METHOD)
        prepare(self.context)

    def creator(self, session: SSL.Session | None = None) -> Any:
        return BareCreator(self.context, session)


@implementer(IOpenSSLClientConnectionCreator)
class BareCreator:
    def __init__(self, context: SSL.Context, session: SSL.Session | None) -> None:
        self.context = context
        self.session = session

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N803
        connection = SSL.Connection(self.context)
        if self.session is not None:
            connection.set_session(self.session)
        return connection


def make_intermediate(
    ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, *, key: ec.EllipticCurvePrivateKey | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """An authority below another one; with `key`, the twin of one that has it already."""
    key = key or keys.generate()
    start = datetime.datetime.fromtimestamp(int(NOW) - 3600, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Intermediate")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(ca_key, hashes.SHA256()), key


class TlsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.ca, self.ca_key = certificates.make_authority("CA", NOW)
        self.server, self.server_key = self._issue("fleet.example", "192.0.2.1")
        self.key = keys.generate()
        client_id = client_id_of_key(keys.public_der(self.key))
        self.certificate = certificates.client_certificate(self.key, client_id, NOW)

    def _issue(self, *hosts: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        return certificates.issue_server(self.ca, self.ca_key, "Server", hosts, NOW)

    def server_tls(self, **options: bool) -> tls.ServerTls:
        return tls.server_options(certificates.to_pem(self.server), certificates.key_to_pem(self.server_key), **options)

    def client_tls(self, host: str = "fleet.example", **changes: Any) -> tls.ClientConnectionCreator:
        arguments: dict[str, Any] = {"trusted": [self.ca], "key": self.key, "certificate": self.certificate}
        return tls.ClientTlsPolicy(**arguments | changes).creatorForNetloc(host.encode(), 443)

    def assert_refused(self, client_tls: Any, reason: str, server_tls: Any = None) -> None:
        server, client = handshake(server_tls or self.server_tls(), client_tls)
        self.assertEqual(server.received, b"")
        assert client.lost is not None
        self.assertIsInstance(client.lost.value, tls.VerificationFailed)
        self.assertIn(reason, str(client.lost.value))


class HandshakeTests(TlsTestCase):
    def test_item_56_the_server_sees_the_clients_certificate_and_the_name_of_the_host(self) -> None:
        server, client = handshake(self.server_tls(), self.client_tls())
        self.assertEqual(server.received, b"hello")
        seen = server.transport.getPeerCertificate().to_cryptography()
        self.assertEqual(seen, self.certificate)
        self.assertEqual(server.transport._tlsConnection.get_servername(), b"fleet.example")
        self.assertEqual(client.transport.negotiatedProtocol, b"http/1.1")
        self.assertIsNone(client.lost)

    def test_an_ip_address_needs_and_gets_an_ip_name(self) -> None:
        server, _ = handshake(self.server_tls(), self.client_tls("192.0.2.1"))
        self.assertEqual(server.received, b"hello")
        self.assert_refused(self.client_tls("192.0.2.2"), "not for 192.0.2.2")

    def test_server_name_replaces_the_host(self) -> None:
        server, _ = handshake(self.server_tls(), self.client_tls("10.0.0.1", server_name="fleet.example"))
        self.assertEqual(server.received, b"hello")
        self.assertEqual(server.transport._tlsConnection.get_servername(), b"fleet.example")

    def test_trusting_the_servers_own_certificate_is_enough(self) -> None:
        server, _ = handshake(self.server_tls(), self.client_tls(trusted=[self.server]))
        self.assertEqual(server.received, b"hello")


class ClientRefusesTests(TlsTestCase):
    def test_a_wrong_name(self) -> None:
        self.assert_refused(self.client_tls("other.example"), "not for other.example")

    def test_an_authority_it_was_not_told_to_trust(self) -> None:
        stranger, _ = certificates.make_authority("CA", NOW)
        self.assert_refused(self.client_tls(trusted=[stranger]), "not acceptable")

    def test_an_expired_certificate(self) -> None:
        old, key = certificates.issue_server(self.ca, self.ca_key, "Server", ["fleet.example"], 1_000_000_000.0)
        server_tls = tls.server_options(certificates.to_pem(old), certificates.key_to_pem(key))
        self.assert_refused(self.client_tls(), "has expired", server_tls)

    def test_item_52_a_revoked_serial_anywhere_in_the_chain(self) -> None:
        for revoked in (self.server, self.ca):
            serial = revoked.serial_number
            client_tls = self.client_tls(is_revoked=lambda number, serial=serial: number == serial)
            self.assert_refused(client_tls, "certificate revoked")

    def test_a_name_that_is_none(self) -> None:
        with self.assertRaises(ValueError):
            self.client_tls("not a name")


class ChainTests(TlsTestCase):
    """Intermediate authorities: among the trusted ones, or sent by the server; and revoked ones."""

    def setUp(self) -> None:
        super().setUp()
        self.middle, self.middle_key = make_intermediate(self.ca, self.ca_key)
        self.server, self.server_key = certificates.issue_server(
            self.middle, self.middle_key, "Server", ["fleet.example"], NOW
        )

    def sending(self, *chain: x509.Certificate) -> tls.ServerTls:
        pem = "".join(map(certificates.to_pem, (self.server, *chain)))
        return tls.server_options(pem, certificates.key_to_pem(self.server_key))

    def assert_accepted(self, server_tls: tls.ServerTls, **changes: Any) -> None:
        server, client = handshake(server_tls, self.client_tls(**changes))
        self.assertEqual(server.received, b"hello")
        self.assertIsNone(client.lost)

    def revoking(self, *revoked: x509.Certificate) -> Callable[[int], bool]:
        return {certificate.serial_number for certificate in revoked}.__contains__

    def test_an_intermediate_that_the_server_sends(self) -> None:
        self.assert_accepted(self.sending(self.middle))
        self.assert_accepted(self.sending(self.middle, self.ca))

    def test_an_intermediate_among_the_trusted_ones(self) -> None:
        self.assert_accepted(self.sending(), trusted=[self.ca, self.middle])
        self.assert_accepted(self.sending(), trusted=[self.middle])

    def test_an_intermediate_that_nobody_has(self) -> None:
        self.assert_refused(self.client_tls(), "unable to get issuer cert locally", self.sending())

    def test_item_52_a_revoked_intermediate(self) -> None:
        client_tls = self.client_tls(is_revoked=self.revoking(self.middle))
        self.assert_refused(
            client_tls, f"certificate revoked: serial number {self.middle.serial_number:x}", self.sending(self.middle)
        )
        client_tls = self.client_tls(trusted=[self.ca, self.middle], is_revoked=self.revoking(self.middle))
        self.assert_refused(client_tls, "certificate revoked", self.sending())

    def test_item_52_a_revoked_server_whatever_chain_there_is(self) -> None:
        client_tls = self.client_tls(is_revoked=self.revoking(self.server))
        self.assert_refused(client_tls, f"{self.server.serial_number:x}", self.sending(self.middle))

    def test_one_chain_without_a_revoked_serial_is_enough(self) -> None:
        """client-https 1: the intermediate is signed by two authorities, one of its certificates is revoked."""
        other_ca, other_key = certificates.make_authority("Other CA", NOW)
        twin, _ = make_intermediate(other_ca, other_key, key=self.middle_key)
        for sent in ((self.middle, twin), (twin, self.middle)):
            for revoked in (self.middle, twin, self.ca, other_ca):
                self.assert_accepted(
                    self.sending(*sent), trusted=[self.ca, other_ca], is_revoked=self.revoking(revoked)
                )
            client_tls = self.client_tls(trusted=[self.ca, other_ca], is_revoked=self.revoking(self.middle, other_ca))
            self.assert_refused(client_tls, "certificate revoked", self.sending(*sent))

    def test_a_revoked_authority_above_a_trusted_intermediate_does_not_count(self) -> None:
        self.assert_accepted(self.sending(self.ca), trusted=[self.middle], is_revoked=self.revoking(self.ca))

    def test_a_list_that_fails_lets_nothing_through(self) -> None:
        def is_revoked(serial: int) -> bool:
            raise KeyError("no list")

        self.assert_refused(self.client_tls(is_revoked=is_revoked), "cannot be checked", self.sending(self.middle))


class ServerAcceptsTests(TlsTestCase):
    """Anything about a client's certificate but its key is of no interest."""

    def _connect(self, prepare: Callable[[SSL.Context], object]) -> Recorder:
        return handshake(self.server_tls(), Bare(prepare).creator())[0]

    def test_no_certificate_at_all_completes_the_handshake(self) -> None:
        server = self._connect(lambda context: None)
        self.assertEqual(server.received, b"hello")
        self.assertIsNone(server.transport.getPeerCertificate())

    def test_the_year_one_as_the_go_client_has_it(self) -> None:
        key = keys.load_sec1(bytes.fromhex(vectors.load("state_file")["observed"][1]["client_key_sec1_der_hex"]))
        recorded = vectors.load("client_certificate")
        certificate = x509.load_der_x509_certificate(bytes.fromhex(recorded["certificate_der_hex"]))

        def prepare(context: SSL.Context) -> None:
            context.use_certificate(certificate)
            context.use_privatekey(key)

        server = self._connect(prepare)
        self.assertEqual(server.received, b"hello")
        seen = server.transport.getPeerCertificate().to_cryptography()
        self.assertEqual(client_id_of_key(keys.public_der(seen.public_key())).hex(), recorded["client_id"])

    def test_tls_1_2_only_with_the_four_suites(self) -> None:
        def old(ciphers: bytes) -> Callable[[SSL.Context], None]:
            def prepare(context: SSL.Context) -> None:
                context.set_max_proto_version(SSL.TLS1_2_VERSION)
                context.set_cipher_list(ciphers)

            return prepare

        self.assertEqual(self._connect(old(b"ECDHE-ECDSA-AES128-GCM-SHA256")).received, b"hello")
        self.assertEqual(self._connect(old(b"ECDHE-ECDSA-CHACHA20-POLY1305")).received, b"")

    def test_tls_1_1_is_refused(self) -> None:
        def prepare(context: SSL.Context) -> None:
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_max_proto_version(SSL.TLS1_1_VERSION)
            context.set_cipher_list(b"ALL:@SECLEVEL=0")

        self.assertEqual(self._connect(prepare).received, b"")

    def test_http_2_is_chosen_only_when_it_is_offered(self) -> None:
        for offered, chosen in ((False, b"http/1.1"), (True, b"h2")):
            client_tls = Bare(lambda context: context.set_alpn_protos([b"h2", b"http/1.1"])).creator()
            server, _ = handshake(self.server_tls(offer_http2=offered), client_tls)
            self.assertEqual(server.transport.negotiatedProtocol, chosen)

    def test_nothing_can_be_resumed(self) -> None:
        """A resumed handshake would not show the server's certificate again."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            shown: list[int] = []

            def prepare(context: SSL.Context, version: int = version, shown: list[int] = shown) -> None:
                context.set_max_proto_version(version)
                context.set_verify(SSL.VERIFY_PEER, lambda *asked: not shown.append(version))

            server_tls, bare = self.server_tls(), Bare(prepare)
            _, client = handshake(server_tls, bare.creator())
            once = len(shown)
            session = client.transport._tlsConnection.get_session()
            server, _ = handshake(server_tls, bare.creator(session))
            self.assertEqual((len(shown), server.received), (2 * once, b"hello"))


class ServerOptionsTests(TlsTestCase):
    def test_a_key_that_is_not_the_certificates_is_refused(self) -> None:
        with self.assertRaisesRegex(ConfigError, "do not belong together"):
            tls.server_options(certificates.to_pem(self.server), certificates.key_to_pem(self.ca_key))

    def test_what_cannot_be_read_is_refused_by_name(self) -> None:
        with self.assertRaisesRegex(ConfigError, "certificate chain"):
            tls.server_options("nothing", certificates.key_to_pem(self.server_key))
        with self.assertRaisesRegex(ConfigError, "the server's key"):
            tls.server_options(certificates.to_pem(self.server), "nothing")

    def test_the_whole_chain_is_sent(self) -> None:
        chain = certificates.to_pem(self.server) + certificates.to_pem(self.ca)
        server_tls = tls.server_options(chain, certificates.key_to_pem(self.server_key))
        _, client = handshake(server_tls, self.client_tls())
        sent = client.transport._tlsConnection.get_peer_cert_chain()
        self.assertEqual([certificate.to_cryptography() for certificate in sent], [self.server, self.ca])
