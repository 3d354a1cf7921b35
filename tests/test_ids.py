"""client-tests, section A: identifiers."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak import ids
from fleetspeak.ids import ClientId
from tests import vectors


def _der(public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class ClientIdTests(SynchronousTestCase):
    def test_item_1_bytes(self) -> None:
        self.assertEqual(ids.show(ids.client_id(b"")), "nil")
        for raw in ("0000000000000000", "000000ff00000000", "fffefdfcfbfbfaf9"):
            self.assertEqual(ids.show(ids.client_id(bytes.fromhex(raw))), raw)
        for size in (3, 7, 9):
            error = self.assertRaises(ValueError, ids.client_id, bytes(size))
            self.assertEqual(str(error), "ClientID must be 8 bytes")

    @given(st.binary(min_size=8, max_size=8))
    def test_item_2_text_round_trip(self, raw: bytes) -> None:
        self.assertEqual(ids.parse_client_id(ids.show(raw)), raw)
        self.assertEqual(ids.parse_client_id(raw.hex().upper()), raw)

    def test_item_2_text(self) -> None:
        self.assertEqual(ids.parse_client_id(""), b"")
        self.assertEqual(ids.parse_client_id("nil"), b"")
        for text in ("0", "0" * 15, "0" * 17, "0" * 32):
            error = self.assertRaises(ValueError, ids.parse_client_id, text)
            self.assertEqual(str(error), "ClientID must be 16 characters")
        self.assertRaises(ValueError, ids.parse_client_id, "not hexadecimal!")

    def test_spaces_are_no_digits(self) -> None:
        self.assertRaises(ValueError, ids.parse_client_id, "00 00 00 00 00 0")

    def test_item_3_equal_bytes_are_the_same_key_of_a_dict(self) -> None:
        seen = {ids.client_id(bytes(8)): "zero"}
        self.assertEqual(seen[ids.parse_client_id("0" * 16)], "zero")
        self.assertNotIn(ids.client_id(b"\1" * 8), seen)

    def test_item_4_a_key_has_one_id_and_two_keys_have_two(self) -> None:
        for one, other in (
            (ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())),
            (rsa.generate_private_key(65537, 1024), rsa.generate_private_key(65537, 1024)),
        ):
            self.assertEqual(ids.client_id_of_key(_der(one.public_key())), ids.client_id_of_key(_der(one.public_key())))
            self.assertNotEqual(
                ids.client_id_of_key(_der(one.public_key())), ids.client_id_of_key(_der(other.public_key()))
            )

    def test_item_6_known_answers(self) -> None:
        known = vectors.load("client_ids")
        for entry in known["derived"] + known["observed"]:
            key = bytes.fromhex(entry["pkix_public_der_hex"])
            self.assertEqual(ids.show(ids.client_id_of_key(key)), entry["client_id_hex"])
        for entry in known["strings"]:
            raw = bytes.fromhex(entry["bytes_hex"])
            if "string" in entry:
                self.assertEqual(ids.show(ids.client_id(raw)), entry["string"])
                self.assertEqual(ids.parse_client_id(entry["string"]), raw)
            else:
                self.assertRaises(ValueError, ids.client_id, raw)


class MessageIdTests(SynchronousTestCase):
    def test_item_5_bytes(self) -> None:
        self.assertEqual(ids.show(ids.message_id(b"")), "nil")
        self.assertEqual(ids.show(ids.message_id(b"\xab" * 32)), "ab" * 32)
        for size in (3, 31, 33):
            error = self.assertRaises(ValueError, ids.message_id, bytes(size))
            self.assertEqual(str(error), "MessageID must be 32 bytes")
        self.assertEqual({ids.message_id(bytes(32)): 1}[ids.parse_message_id("00" * 32)], 1)

    def test_text(self) -> None:
        self.assertEqual(ids.parse_message_id("nil"), b"")
        error = self.assertRaises(ValueError, ids.parse_message_id, "00" * 31)
        self.assertEqual(str(error), "MessageID must be 64 characters")

    def test_item_6_known_answers(self) -> None:
        """The vector file, and the two of wire.md."""
        for entry in vectors.load("message_ids")["vectors"]:
            made = ids.message_id_of(
                ClientId(bytes.fromhex(entry["client_id_hex"])),
                entry["service_name"],
                bytes.fromhex(entry["source_message_id_hex"]),
            )
            self.assertEqual(ids.show(made), entry["message_id_hex"])
        self.assertEqual(
            ids.message_id_of(ids.parse_client_id("0000000000000001"), "TestServiceName", b"omid 2").hex(),
            "2083c96205129081d592ed3b1ba4957e4abdb1e2a5044bec2a35a17aa08978ae",
        )
        self.assertEqual(
            ids.message_id_of(ids.NO_CLIENT, "s", b"x").hex(),
            "9691c6be627952d4317b9b83bbdb7d3096cdfcb307c29405fc3b8275c0a9e212",
        )

    def test_the_servers_own_are_never_the_same(self) -> None:
        self.assertEqual(len({ids.random_message_id() for _ in range(100)}), 100)
        self.assertEqual(len(ids.random_message_id()), ids.MESSAGE_ID_SIZE)
