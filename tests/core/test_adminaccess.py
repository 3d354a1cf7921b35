"""Roles, what each RPC needs, and whose a token or a certificate is."""

from __future__ import annotations

import datetime
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.adminaccess import RPCS, UNKNOWN, Callers, Known, Role, certificate_names, rpc_of, token_hash
from fleetspeak.pb import admin, operator

ALICE = Known("alice", Role.ADMIN, ("CN:alice", "URI:spiffe://ops/alice"), (token_hash("one"), token_hash("two")))
BOB = Known("bob", Role.VIEWER, ("EMAIL:bob@ops.example",), (token_hash("three"),))


class TableTests(SynchronousTestCase):
    def test_every_rpc_is_in_it_and_no_other(self) -> None:
        services = (admin.DESCRIPTOR.services_by_name["Admin"], operator.DESCRIPTOR.services_by_name["Operator"])
        served = {f"{service.full_name}/{method.name}" for service in services for method in service.methods}
        self.assertEqual({name for name in RPCS if not name.startswith("grpc.")}, served)

    def test_what_is_not_in_it_is_for_admins_and_written_down(self) -> None:
        for name in ("fleetspeak.operator.Operator/Later", "", "x"):
            self.assertIs(rpc_of(name), UNKNOWN)
        self.assertEqual((UNKNOWN.role, UNKNOWN.changes), (Role.ADMIN, True))

    def test_a_viewer_changes_nothing(self) -> None:
        self.assertEqual([name for name, rpc in RPCS.items() if rpc.changes and rpc.role < Role.OPERATOR], [])

    def test_a_name_that_says_look_changes_nothing(self) -> None:
        looks = ("List", "Get", "Stream", "Count", "Fetch", "Export", "KeepAlive", "WhoAmI", "ServerReflection")
        for name, rpc in RPCS.items():
            self.assertEqual(rpc.changes, not name.rpartition("/")[2].startswith(looks), name)

    def test_roles_are_ordered(self) -> None:
        self.assertLess(Role.NOBODY, Role.VIEWER)
        self.assertEqual(sorted([Role.ADMIN, Role.VIEWER, Role.OPERATOR]), [Role.VIEWER, Role.OPERATOR, Role.ADMIN])
        self.assertEqual(str(Role.OPERATOR), "operator")


class CallersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.callers = Callers([ALICE, BOB])

    def test_tokens(self) -> None:
        for token, known in (("one", ALICE), ("two", ALICE), ("three", BOB), ("four", None), ("", None)):
            self.assertIs(self.callers.by_token(token), known)

    @given(st.text())
    def test_any_text_may_be_presented(self, token: str) -> None:
        known = self.callers.by_token(token)
        self.assertEqual(known is not None, token in ("one", "two", "three"))

    def test_the_hash_is_no_token(self) -> None:
        self.assertIsNone(self.callers.by_token(token_hash("one").hex()))

    def test_names_in_certificates(self) -> None:
        self.assertIs(self.callers.by_names(["DNS:x", "URI:spiffe://ops/alice"]), ALICE)
        self.assertIs(self.callers.by_names(["EMAIL:bob@ops.example", "CN:alice"]), BOB)
        self.assertIsNone(self.callers.by_names(["CN:bob@ops.example", "cn:alice", "CN:Alice"]))
        self.assertIsNone(Callers().by_names(["CN:alice"]))


def certificate(common_names: list[str], *alternative: x509.GeneralName) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one) for one in common_names])
    now = datetime.datetime(2026, 1, 1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(secrets.randbits(64) + 1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class CertificateTests(SynchronousTestCase):
    def test_each_name_with_its_kind(self) -> None:
        pem = certificate(
            ["alice"],
            x509.UniformResourceIdentifier("spiffe://ops/alice"),
            x509.DNSName("ops.example"),
            x509.RFC822Name("alice@ops.example"),
        )
        self.assertEqual(
            certificate_names(pem),
            ("CN:alice", "DNS:ops.example", "EMAIL:alice@ops.example", "URI:spiffe://ops/alice"),
        )

    def test_a_name_of_another_kind_is_another_name(self) -> None:
        """Whoever gets a certificate for a host named alice is not alice."""
        self.assertEqual(certificate_names(certificate([], x509.DNSName("alice"))), ("DNS:alice",))

    def test_one_of_two_common_names_is_none(self) -> None:
        self.assertEqual(certificate_names(certificate(["alice", "bob"])), ())

    def test_without_names(self) -> None:
        self.assertEqual(certificate_names(certificate([])), ())

    @given(st.binary())
    def test_anything(self, pem: bytes) -> None:
        self.assertEqual(certificate_names(pem), ())
