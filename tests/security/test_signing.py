from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.pb import system
from fleetspeak.security import signing
from tests import vectors


class VerifyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.vectors = vectors.load("signed_service_config")
        key = load_pem_public_key(self.vectors["public_key_pem"].encode())
        assert isinstance(key, rsa.RSAPublicKey)
        self.key = key

    def _read(self, entry: dict[str, str]) -> system.SignedClientServiceConfig:
        return system.SignedClientServiceConfig.FromString(bytes.fromhex(entry["signed_file_hex"]))

    def test_known_signatures_verify(self) -> None:
        for entry in self.vectors["signed"]:
            signed = self._read(entry)
            self.assertTrue(signing.verify(signed, [self.key]))
            self.assertEqual(system.ClientServiceConfig.FromString(signed.service_config).name, entry["config"]["name"])

    def test_any_of_several_deployment_keys_will_do(self) -> None:
        other = rsa.generate_private_key(65537, 2048).public_key()
        signed = self._read(self.vectors["signed"][0])
        self.assertTrue(signing.verify(signed, [other, self.key]))
        self.assertFalse(signing.verify(signed, [other]))
        self.assertFalse(signing.verify(signed, []))

    def test_missing_wrong_and_foreign_signatures_do_not_verify(self) -> None:
        self.assertFalse(signing.verify(self._read(self.vectors["unsigned_accepted_by_upstream"]), [self.key]))
        self.assertFalse(
            signing.verify(self._read(self.vectors["bad_signature_still_accepted_by_upstream"]), [self.key])
        )
        first, second = map(self._read, self.vectors["signed"])
        first.signature = second.signature
        self.assertFalse(signing.verify(first, [self.key]))


class SignTests(SynchronousTestCase):
    def test_what_is_signed_verifies_and_tells_when(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        config = system.ClientServiceConfig(name="hello", factory="Daemon")
        signed = signing.sign(config, key, now=1_700_000_000.9)
        self.assertTrue(signing.verify(signed, [key.public_key()]))
        inner = system.ClientServiceConfig.FromString(signed.service_config)
        self.assertEqual((inner.name, inner.factory, inner.signed_time.seconds), ("hello", "Daemon", 1_700_000_000))
        self.assertFalse(config.HasField("signed_time"), "the caller's configuration is left alone")

    def test_a_changed_configuration_no_longer_verifies(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        signed = signing.sign(system.ClientServiceConfig(name="hello", factory="NOOP"), key)
        signed.service_config = signed.service_config.replace(b"hello", b"jello")
        self.assertFalse(signing.verify(signed, [key.public_key()]))
