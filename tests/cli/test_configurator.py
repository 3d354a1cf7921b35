"""``fleetspeak-config`` (server-core.md 12.3, with its improvements)."""

from __future__ import annotations

import contextlib
import io
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf import text_format
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli import configurator
from fleetspeak.config import client, server, textproto
from fleetspeak.errors import ConfigError
from fleetspeak.pb import client_config, components
from fleetspeak.pb import configurator as pb_configurator
from fleetspeak.security import certificates, tls

NOW = 1_800_000_000.0


class ConfiguratorTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.config = pb_configurator.Config(
            configuration_name="Test",
            trusted_cert_file=self.path("ca.pem"),
            trusted_cert_key_file=self.path("ca-key.pem"),
            server_cert_file=self.path("server.pem"),
            server_cert_key_file=self.path("server-key.pem"),
            server_component_configuration_file=self.path("components"),
            public_host_port=["fleet.example:443", "192.0.2.1:443", "[2001:db8::1]:443"],
            linux_client_configuration_file=self.path("linux"),
        )
        self.config.components_config.https_config.listen_address = ":443"
        self.config.components_config.admin_config.listen_address = "localhost:9000"

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def configure(self) -> None:
        path = self.folder / "config"
        path.write_text(text_format.MessageToString(self.config))
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            configurator.configure(path, NOW)
        self.told = printed.getvalue()

    def client(self, name: str = "linux") -> client_config.Config:
        return textproto.read(self.folder / name, client_config.Config)

    def components(self) -> components.Config:
        return textproto.read(self.folder / "components", components.Config)


class CertificateTests(ConfiguratorTestCase):
    def test_the_server_certificate_names_every_public_host_and_the_server_name(self) -> None:
        self.config.server_name = "name.example"
        self.configure()
        (leaf,) = certificates.load_certificates((self.folder / "server.pem").read_text())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["fleet.example", "name.example"])
        self.assertEqual([str(ip) for ip in names.get_values_for_type(x509.IPAddress)], ["192.0.2.1", "2001:db8::1"])
        self.assertFalse(leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        self.assertEqual(leaf.subject.rfc4514_string(), "CN=Test Fleetspeak Server")
        (ca,) = certificates.load_certificates((self.folder / "ca.pem").read_text())
        self.assertEqual(ca.subject.rfc4514_string(), "CN=Test Fleetspeak CA")
        leaf.verify_directly_issued_by(ca)

    def test_keys_are_private_and_certificates_public(self) -> None:
        self.configure()
        for name, mode in (("ca-key.pem", 0o600), ("server-key.pem", 0o600), ("components", 0o600),
                           ("ca.pem", 0o644), ("server.pem", 0o644), ("linux", 0o644)):  # fmt: skip
            self.assertEqual(stat.S_IMODE((self.folder / name).stat().st_mode), mode, name)

    def test_running_it_again_keeps_what_is_there(self) -> None:
        self.configure()
        before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        self.configure()
        self.assertEqual({path.name: path.read_bytes() for path in self.folder.iterdir()}, before)

    def test_an_authority_with_a_pkcs8_key_issues(self) -> None:
        ca, key = certificates.make_authority("Mine", NOW)
        (self.folder / "ca.pem").write_text(certificates.to_pem(ca))
        pkcs8 = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "ca-key.pem").write_bytes(pkcs8)
        self.configure()
        (leaf,) = certificates.load_certificates((self.folder / "server.pem").read_text())
        leaf.verify_directly_issued_by(ca)

    def test_an_authority_without_its_key_serves_when_the_server_has_its_certificate(self) -> None:
        self.configure()
        (self.folder / "ca-key.pem").unlink()
        self.configure()
        self.assertIn("server certificates cannot be made", self.told)
        (self.folder / "server.pem").unlink()
        with self.assertRaisesRegex(ConfigError, "CA key not loaded"):
            self.configure()


class FilesTests(ConfiguratorTestCase):
    def test_our_server_takes_the_components_file(self) -> None:
        self.configure()
        (self.folder / "services").touch()
        read = server.read_server_config(self.folder / "components", self.folder / "services", self.folder / "db")
        self.assertEqual((read.https_address, read.admin_address), (("", 443), ("localhost", 9000)))
        tls.server_options(read.certificate_chain, read.key)

    def test_our_client_takes_its_file(self) -> None:
        self.configure()
        made = self.client()
        made.filesystem_handler.configuration_directory = str(self.folder)
        made.filesystem_handler.state_file = self.path("state")
        (self.folder / "linux").write_text(text_format.MessageToString(made))
        read = client.read_client_config(self.folder / "linux")
        self.assertEqual(list(read.servers), [("fleet.example", 443), ("192.0.2.1", 443), ("2001:db8::1", 443)])
        self.assertTrue(read.streaming)

    def test_each_system_has_its_own_places(self) -> None:
        self.config.darwin_client_configuration_file = self.path("darwin")
        self.config.windows_client_configuration_file = self.path("windows")
        self.configure()
        linux, darwin = self.client().filesystem_handler, self.client("darwin").filesystem_handler
        self.assertEqual(linux.configuration_directory, "/etc/fleetspeak-client")
        self.assertEqual(linux.state_file, "/var/lib/misc/fleetspeak-client.state")
        self.assertEqual(darwin.state_file, "/etc/fleetspeak-client/state")
        self.assertEqual(
            self.client("windows").registry_handler.configuration_key, r"HKEY_LOCAL_MACHINE\SOFTWARE\FleetspeakClient"
        )

    def test_only_what_was_asked_for_is_written(self) -> None:
        self.config.linux_client_configuration_file = ""
        self.configure()
        self.assertFalse((self.folder / "linux").exists())

    def test_the_clients_fields_follow_the_servers(self) -> None:
        self.config.server_name, self.config.proxy = "name.example", "http://proxy:3128"
        self.config.components_config.required_label = "corp"
        self.config.components_config.https_config.disable_streaming = True
        self.configure()
        made = self.client()
        self.assertEqual((made.server_name, made.proxy), ("name.example", "http://proxy:3128"))
        self.assertEqual((list(made.client_label), made.streaming), (["corp"], False))
        self.assertEqual(made.client_certificate_header, "")
        self.assertEqual(made.trusted_certs, (self.folder / "ca.pem").read_text())

    def test_there_is_no_empty_label(self) -> None:
        self.configure()
        self.assertEqual(list(self.client().client_label), [])

    def test_the_certificate_header_is_written_for_the_modes_in_which_the_client_fills_it(self) -> None:
        frontend = self.config.components_config.https_config.frontend_config
        for mode in ("https_header_checksum_config", "cleartext_header_checksum_config"):
            getattr(frontend, mode).client_certificate_header = "X-Cert"
            self.configure()
            self.assertEqual(self.client().client_certificate_header, "X-Cert")

    def test_the_rest_of_the_template_is_kept(self) -> None:
        self.config.components_config.mysql_data_source_name = "fs:pw@tcp(db:3306)/fleetspeak"
        self.configure()
        made = self.components()
        self.assertEqual(made.mysql_data_source_name, "fs:pw@tcp(db:3306)/fleetspeak")
        self.assertEqual(made.https_config.certificates, (self.folder / "server.pem").read_text())
        self.assertEqual(made.https_config.key, (self.folder / "server-key.pem").read_text())


class RefusalTests(ConfiguratorTestCase):
    def test_each_missing_thing_is_named(self) -> None:
        for path, reason in (
            (
                "components_config.https_config.listen_address",
                "components_config.https_config.listen_address is required",
            ),
            ("components_config.https_config", "components_config.https_config is required"),
            ("components_config", "components_config is required"),
            ("server_component_configuration_file", "server_component_configuration_file is required"),
            ("server_cert_key_file", "server_cert_key_file not set"),
            ("server_cert_file", "server_cert_file not set"),
            ("trusted_cert_file", "trusted_cert_file not set"),
            ("configuration_name", "configuration_name required, not found in"),
        ):
            owner, _, name = path.rpartition(".")
            message = self.config
            for part in filter(None, owner.split(".")):
                message = getattr(message, part)
            message.ClearField(name)
            with self.assertRaisesRegex(ConfigError, reason):
                self.configure()

    def test_a_public_address_without_port(self) -> None:
        self.config.public_host_port[0] = "fleet.example"
        with self.assertRaisesRegex(ConfigError, "unable to parse host-port: 'fleet.example'"):
            self.configure()

    def test_a_new_authority_needs_a_place_for_its_key(self) -> None:
        self.config.trusted_cert_key_file = ""
        with self.assertRaisesRegex(ConfigError, "trusted_cert_key_file not set"):
            self.configure()

    def test_a_key_that_does_not_belong(self) -> None:
        self.configure()
        (self.folder / "server-key.pem").write_bytes((self.folder / "ca-key.pem").read_bytes())
        with self.assertRaisesRegex(ConfigError, "do not belong together"):
            self.configure()

    def test_a_broken_description_is_told_with_its_place(self) -> None:
        path = self.folder / "config"
        path.write_text("\nconfigration_name: 'x'")
        with self.assertRaisesRegex(ConfigError, f"{path}:2:1: .*did you mean configuration_name"):
            configurator.configure(path, NOW)
        with self.assertRaisesRegex(ConfigError, "Unable to read"):
            configurator.configure(self.folder / "none", NOW)
