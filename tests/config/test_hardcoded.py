"""What a repacked client has hardcoded: checked, with the name and what was expected, and put over everything else."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config import hardcoded
from fleetspeak.errors import ConfigError
from fleetspeak.pb import client, client_config, system


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class ParseTests(SynchronousTestCase):
    def refusal(self, **names: object) -> str:
        return str(self.assertRaises(ConfigError, hardcoded.parse, names))

    def test_nothing(self) -> None:
        self.assertEqual(hardcoded.parse({}), hardcoded.NOTHING)
        self.assertFalse(hardcoded.NOTHING.is_whole)

    def test_everything(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        found = hardcoded.parse(
            {
                "CONFIG": 'streaming: true proxy: "http://proxy:1" client_label: "x" '
                'filesystem_handler { configuration_directory: "/etc/x" state_file: "/var/x" }',
                "TRUSTED_CERTS": "pem",
                "SERVERS": ["a:1", "b:2"],
                "LABELS": ("one",),
                "COMMUNICATOR": client.CommunicatorConfig(max_poll_delay_seconds=7),
                "SERVICES": ['name: "A" factory: "NOOP"', system.ClientServiceConfig(name="B")],
                "DEPLOYMENT_KEYS": [public_pem(key)],
                "REVOKED_SERIALS": [7, "01:00", "ff"],
                "OPTIONS": {"insecure_config": False, "deployment-key-file": ["x"]},
            }
        )
        self.assertTrue(found.is_whole)
        self.assertEqual((found.config.streaming, found.config.proxy), (True, "http://proxy:1"))
        self.assertEqual((list(found.config.server), list(found.config.client_label)), (["a:1", "b:2"], ["one"]))
        self.assertEqual(found.config.trusted_certs, "pem")
        assert found.communicator is not None
        assert found.deployment_keys is not None
        self.assertEqual(found.communicator.max_poll_delay_seconds, 7)
        self.assertEqual([service.name for service in found.services], ["A", "B"])
        self.assertEqual([one.public_numbers() for one in found.deployment_keys], [key.public_key().public_numbers()])
        self.assertEqual(found.revoked_serials, {b"\x07", b"\x01\x00", b"\xff"})
        self.assertEqual(found.options, {"insecure-config": False, "deployment-key-file": ["x"]})

    def test_each_mistake_is_named_with_what_was_expected(self) -> None:
        for names, problem in [
            ({"SERVER": ["a:1"]}, "fleetspeak_hardcoded.SERVER: there is no such parameter; did you mean SERVERS?"),
            ({"XYZZY": 1}, "expected one of CONFIG, TRUSTED_CERTS"),
            ({"SERVERS": "a:1"}, "fleetspeak_hardcoded.SERVERS: expected a list, got something of type str"),
            ({"SERVERS": ["a:1", 7]}, "fleetspeak_hardcoded.SERVERS[1]: expected a text, got something of type int"),
            ({"TRUSTED_CERTS": ""}, "fleetspeak_hardcoded.TRUSTED_CERTS: expected a text, got ''"),
            ({"CONFIG": "\nservers: 1"}, "fleetspeak_hardcoded.CONFIG:2:1: "),
            ({"CONFIG": 7}, "expected a fleetspeak.client.generic.Config or the text of one"),
            ({"SERVICES": ["name: ["]}, "fleetspeak_hardcoded.SERVICES[0]:1:"),
            ({"COMMUNICATOR": "max_poll_delay: 1"}, "fleetspeak_hardcoded.COMMUNICATOR:1:1"),
            ({"DEPLOYMENT_KEYS": ["x"]}, "fleetspeak_hardcoded.DEPLOYMENT_KEYS[0]: expected a -----BEGIN"),
            ({"DEPLOYMENT_KEYS": [public_pem(ec.generate_private_key(ec.SECP256R1()))]}, "expected an RSA key"),
            ({"REVOKED_SERIALS": ["xyz"]}, "fleetspeak_hardcoded.REVOKED_SERIALS[0]: expected hexadecimal digits"),
            ({"REVOKED_SERIALS": [0]}, "greater than 0, got 0"),
            ({"REVOKED_SERIALS": [True]}, "greater than 0"),
            ({"OPTIONS": ["x"]}, "fleetspeak_hardcoded.OPTIONS: expected a dict"),
            ({"OPTIONS": {"server": object()}}, "fleetspeak_hardcoded.OPTIONS['server']: expected"),
        ]:
            self.assertIn(problem, self.refusal(**names))

    def test_keys_are_never_quoted(self) -> None:
        self.assertNotIn("sesame", self.refusal(DEPLOYMENT_KEYS=["sesame"]))
        self.assertNotIn("sesame", self.refusal(TRUSTED_CERTS=["sesame"]))

    @given(st.dictionaries(st.sampled_from(list(hardcoded.NAMES)), st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    )))  # fmt: skip
    def test_whatever_is_in_it_is_checked_or_refused(self, names: dict[str, object]) -> None:
        try:
            hardcoded.parse(names)
        except ConfigError as error:
            self.assertIn("fleetspeak_hardcoded.", str(error))


class ApplyTests(SynchronousTestCase):
    def test_what_is_set_replaces_what_a_file_said_and_the_rest_stays(self) -> None:
        config = client_config.Config(server=["file:1"], client_label=["file"], proxy="file", server_name="file")
        hardcoded.parse({"SERVERS": ["a:1"], "CONFIG": 'proxy: "b"'}).apply(config)
        self.assertEqual(
            config, client_config.Config(server=["a:1"], client_label=["file"], proxy="b", server_name="file")
        )


class LoadTests(SynchronousTestCase):
    def load(self, text: str) -> hardcoded.Hardcoded:
        with TemporaryDirectory() as folder:
            (Path(folder) / "fleetspeak_hardcoded_test.py").write_text(text)
            sys.path.insert(0, folder)
            try:
                return hardcoded.load("fleetspeak_hardcoded_test")
            finally:
                sys.path.remove(folder)
                sys.modules.pop("fleetspeak_hardcoded_test", None)
                sys.path_importer_cache.pop(folder, None)

    def test_there_is_none(self) -> None:
        self.assertIs(hardcoded.load("fleetspeak_hardcoded_test"), hardcoded.NOTHING)

    def test_upper_case_names_count_and_others_are_its_own_business(self) -> None:
        found = self.load('import os\n_X = 1\nport = 7\nSERVERS = [f"a:{port}"]\n')
        self.assertEqual(list(found.config.server), ["a:7"])

    def test_one_that_cannot_be_imported_is_one_clear_error(self) -> None:
        for text in ("import no_such_module", "1 / 0", "SERVERS = ["):
            error = self.assertRaises(ConfigError, self.load, text)
            self.assertTrue(str(error).startswith("fleetspeak_hardcoded_test"), str(error))
