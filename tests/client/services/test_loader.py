"""The service files of a configuration directory: one bad file skips only that service, and says where it is bad."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.services.loader import ServiceFile, load_services
from fleetspeak.config.trust import Trust
from fleetspeak.pb import system
from fleetspeak.security import signing
from tests.vectors import load

TEXT = """\
name: "hello"
# factory: "Other"
factory: "NOOP"
required_labels { service_name: "client" label: "linux" }
"""


class LoaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "services").mkdir()
        (self.folder / "textservices").mkdir()

    def load(self, *keys: rsa.RSAPublicKey) -> tuple[list[ServiceFile], list[str]]:
        with capturedLogs() as logged:
            files = list(load_services(self.folder, keys).files)
        return files, [formatEvent(event) for event in logged]

    def text(self, name: str, content: str) -> None:
        (self.folder / "textservices" / name).write_text(content)

    def test_item_15_a_text_service(self) -> None:
        self.text("any name", TEXT)
        (file,), logged = self.load()
        self.assertEqual((file.config.name, file.config.factory), ("hello", "NOOP"))
        self.assertEqual(logged, [])

    def test_errors_can_name_the_line_of_a_field(self) -> None:
        self.text("hello", TEXT)
        (file,), _ = self.load()
        path = self.folder / "textservices" / "hello"
        self.assertEqual(file.where("name"), f"{path}:1")
        self.assertEqual(file.where("factory"), f"{path}:3")
        self.assertEqual(file.where("required_labels"), f"{path}:4")
        self.assertEqual(file.where("config"), str(path))

    def test_item_16_unknown_fields_are_ignored(self) -> None:
        self.text("new", TEXT + "something_of_next_year { a: 1 }\n")
        (file,), logged = self.load()
        self.assertEqual((file.config.name, logged), ("hello", []))

    def test_item_16_a_broken_file_skips_only_itself_and_says_where(self) -> None:
        self.text("a", "name: [")
        self.text("b", TEXT)
        (self.folder / "textservices" / "c").mkdir()
        (self.folder / "textservices" / "d").write_bytes(b"\xff\xfe")
        os.mkfifo(self.folder / "textservices" / "e")
        (self.folder / "services" / "f").write_bytes(b"\xff")
        files, logged = self.load()
        self.assertEqual([file.path.name for file in files], ["b"])
        self.assertEqual(len(logged), 5)
        self.assertIn(f"{self.folder}/textservices/a:1:", logged[1])
        self.assertIn("expected a file", logged[2])

    def test_a_file_that_others_could_have_written_skips_only_itself_and_says_how_to_mend_it(self) -> None:
        self.text("a", TEXT.replace("hello", "a"))
        self.text("b", TEXT)
        path = self.folder / "textservices" / "a"
        path.chmod(0o664)
        files, logged = self.load()
        self.assertEqual([file.config.name for file in files], ["hello"])
        self.assertEqual(
            logged,
            [f"service not installed: {path} is not safe to use: its group may write to it (mode 0664, owner "
             f"{pwd.getpwuid(os.geteuid()).pw_name}); mend it with: chmod go-w {path}, or give --insecure-config"],
        )  # fmt: skip
        with capturedLogs() as captured:
            loaded = load_services(self.folder, trust=Trust(insecure=True))
        self.assertEqual(len(loaded.files), 2)
        self.assertIn(f"{path} is not safe to use", formatEvent(captured[0]) or "")

    def test_fixed_services_come_first(self) -> None:
        self.text("a", TEXT)
        loaded = load_services(self.folder, fixed=[system.ClientServiceConfig(name="fixed", factory="NOOP")])
        self.assertEqual([file.config.name for file in loaded.files], ["fixed", "hello"])
        self.assertEqual(loaded.files[0].where("name"), "fleetspeak_hardcoded.SERVICES[0]")
        self.assertEqual(
            load_services(None, fixed=[system.ClientServiceConfig(name="fixed")]).files[0].config.name, "fixed"
        )

    def test_missing_folders_are_a_warning(self) -> None:
        (self.folder / "services").rmdir()
        (self.folder / "textservices").rmdir()
        files, logged = self.load()
        self.assertEqual((files, len(logged)), ([], 2))

    def test_signed_services_come_before_text_services(self) -> None:
        self.text("a", TEXT)
        vector = load("signed_service_config")["signed"][0]
        (self.folder / "services" / "z").write_bytes(bytes.fromhex(vector["signed_file_hex"]))
        files, _ = self.load()
        self.assertEqual([file.config.name for file in files], ["FakeService", "hello"])
        self.assertEqual([len(file.signature) for file in files], [256, 0])

    def test_item_14_without_deployment_keys_a_signature_is_not_looked_at(self) -> None:
        signed = system.SignedClientServiceConfig(service_config=b"\n\1x", signature=b"wrong")
        (self.folder / "services" / "x").write_bytes(signed.SerializeToString())
        (file,), _ = self.load()
        self.assertEqual((file.config.name, file.signature), ("x", b"wrong"))

    def test_with_deployment_keys_one_of_them_must_have_signed(self) -> None:
        vectors = load("signed_service_config")
        deployment = load_pem_public_key(vectors["public_key_pem"].encode())
        assert isinstance(deployment, rsa.RSAPublicKey)
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        services = self.folder / "services"
        (services / "a-good").write_bytes(bytes.fromhex(vectors["signed"][0]["signed_file_hex"]))
        config = system.ClientServiceConfig(name="evil", factory="NOOP")
        (services / "b-wrong").write_bytes(signing.sign(config, other).SerializeToString())
        unsigned = system.SignedClientServiceConfig(service_config=config.SerializeToString())
        (services / "c-none").write_bytes(unsigned.SerializeToString())
        files, logged = self.load(other.public_key().public_numbers().public_key(), deployment)
        self.assertEqual([file.config.name for file in files], ["FakeService", "evil"])
        files, logged = self.load(deployment)
        self.assertEqual([file.config.name for file in files], ["FakeService"])
        self.assertIn("b-wrong: wrong signature", logged[0])
        self.assertIn("c-none: no signature", logged[1])
