from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.ids import client_id_of_key
from fleetspeak.security import keys
from tests import vectors


class KeyTests(SynchronousTestCase):
    def test_the_go_clients_keys_are_read_and_written_byte_for_byte(self) -> None:
        states = vectors.load("state_file")
        for entry in states["observed"] + states["made"]:
            der = bytes.fromhex(entry["client_key_sec1_der_hex"])
            key = keys.load_sec1(der)
            self.assertEqual(keys.dump_sec1(key), der)
            self.assertEqual(client_id_of_key(keys.public_der(key)).hex(), entry["client_id_hex"])

    def test_a_new_key_is_p256_and_never_the_same(self) -> None:
        one, other = keys.generate(), keys.generate()
        self.assertIsInstance(one.curve, ec.SECP256R1)
        self.assertNotEqual(keys.dump_sec1(one), keys.dump_sec1(other))

    def test_a_private_key_and_its_public_key_have_the_same_der(self) -> None:
        key = keys.generate()
        self.assertEqual(keys.public_der(key), keys.public_der(key.public_key()))

    def test_an_rsa_key_is_refused_as_the_clients_key(self) -> None:
        der = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        with self.assertRaisesRegex(ValueError, "elliptic curve"):
            keys.load_sec1(der)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200))
    def test_garbage_is_one_clear_error(self, garbage: bytes) -> None:
        with self.assertRaisesRegex(ValueError, "not an elliptic curve private key"):
            keys.load_sec1(garbage)
