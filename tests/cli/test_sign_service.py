from __future__ import annotations

import contextlib
import io
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.main import main
from fleetspeak.pb import daemon_config, system
from fleetspeak.security import keys, signing
from fleetspeak.security.certificates import key_to_pem

SERVICE = """
    name: "hello" factory: "Daemon"
    config: { [type.googleapis.com/fleetspeak.daemonservice.Config]: { argv: "/bin/cat" } }
"""


class SignServiceTests(SynchronousTestCase):
    """``fleetspeak sign-service``, by the command line."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.key = rsa.generate_private_key(65537, 2048)
        self.key_file = self.folder / "deployment-key.pem"
        self.key_file.write_text(key_to_pem(self.key))
        self.config = self.folder / "hello.service"
        self.config.write_text(SERVICE)

    def sign(self, *words: str | Path) -> object:
        """The status, or the message, that it exits with."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return self.assertRaises(SystemExit, main, ["sign-service", *map(str, words)]).code

    def read(self, path: Path) -> system.ClientServiceConfig:
        signed = system.SignedClientServiceConfig.FromString(path.read_bytes())
        self.assertTrue(signing.verify(signed, [self.key.public_key()]))
        return system.ClientServiceConfig.FromString(signed.service_config)

    def test_a_text_file(self) -> None:
        self.assertEqual(self.sign(self.config, "--key", self.key_file), 0)
        config = self.read(self.folder / "hello.service.signed")
        self.assertEqual((config.name, config.factory), ("hello", "Daemon"))
        daemon = daemon_config.Config()
        self.assertTrue(config.config.Unpack(daemon))
        self.assertEqual(daemon.argv, ["/bin/cat"])
        self.assertTrue(config.HasField("signed_time"))

    def test_a_binary_file_to_a_place_of_ones_choice(self) -> None:
        self.config.write_bytes(system.ClientServiceConfig(name="quiet", factory="NOOP").SerializeToString())
        self.assertEqual(self.sign("--key", self.key_file, "--output", self.folder / "out", self.config), 0)
        self.assertEqual(self.read(self.folder / "out").name, "quiet")

    def test_what_clients_would_refuse_is_not_signed(self) -> None:
        for text, reason in (
            ('name: "system" factory: "NOOP"', 'refuse services by the name "system"'),
            ('factory: "NOOP"', 'refuse services by the name ""'),
            ('name: "hello"', "factory is missing"),
            ('name: "hello" factry: "NOOP"', "did you mean factory?"),
            ("\x01\x02", "neither text-format nor binary"),
        ):
            self.config.write_text(text)
            self.assertIn(reason, str(self.sign(self.config, "--key", self.key_file)))
        self.assertEqual([path.name for path in self.folder.glob("*.signed")], [])

    def test_a_key_of_another_kind(self) -> None:
        self.key_file.write_text(key_to_pem(keys.generate()))
        self.assertIn("not an RSA key; make one with", str(self.sign(self.config, "--key", self.key_file)))

    def test_missing_files_are_named(self) -> None:
        self.assertIn("none", str(self.sign(self.folder / "none", "--key", self.key_file)))
        self.assertIn("none", str(self.sign(self.config, "--key", self.folder / "none")))
        self.assertIn("unable to write", str(self.sign(self.config, "--key", self.key_file, "--output", self.folder)))

    def test_an_unknown_command_is_a_usage_error(self) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            self.assertEqual(self.assertRaises(SystemExit, main, ["nonsense"]).code, 2)
        self.assertIn("sign-service", printed.getvalue())
