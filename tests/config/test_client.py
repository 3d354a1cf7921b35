"""The client's configuration: the Go client's file and checks (client-core.md 2 to 4 and 6), and the small set-up."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf import text_format
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config import client as settings
from fleetspeak.config import hardcoded
from fleetspeak.config.trust import Trust
from fleetspeak.errors import ConfigError
from fleetspeak.pb import client, client_config
from fleetspeak.security import certificates

CA = certificates.make_authority("CA", 1_800_000_000)[0]


class ClientConfigTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.config = client_config.Config(trusted_certs=certificates.to_pem(CA), server=["fleet.example:443"])
        self.config.filesystem_handler.configuration_directory = str(self.folder)
        self.config.filesystem_handler.state_file = str(self.folder / "state")

    def read(self) -> settings.ClientSettings:
        path = self.folder / "client.config"
        path.write_text(text_format.MessageToString(self.config))
        return settings.read_client_config(path)

    def assert_refused(self, reason: str) -> None:
        with self.assertRaises(ConfigError) as caught:
            self.read()
        self.assertIn("error in configuration file", str(caught.exception))
        self.assertIn(reason, str(caught.exception))


class ReadClientConfigTests(ClientConfigTestCase):
    def test_the_smallest_file_and_its_defaults(self) -> None:
        read = self.read()
        self.assertEqual(list(read.trusted_certs), [CA])
        self.assertEqual(list(read.servers), [("fleet.example", 443)])
        self.assertEqual(read.labels, (settings.architecture(), settings.operating_system()))
        self.assertFalse(read.streaming)
        self.assertEqual(read.configuration_directory, self.folder)
        self.assertEqual(read.state_file, self.folder / "state")
        self.assertEqual(read.communicator, settings.default_communicator())
        self.assertEqual((read.proxy, read.client_certificate_header, read.server_name), ("", "", ""))
        self.assertEqual(read.warnings, ())

    def test_everything_that_can_be_said(self) -> None:
        self.config.MergeFrom(
            client_config.Config(
                server=["[2001:db8::1]:4443"],
                client_label=["alpha", " ", "", " spaced "],
                streaming=True,
                proxy="socks5://user:pw@proxy.example:1080",
                client_certificate_header="X-Cert",
                server_name="other.example",
            )
        )
        read = self.read()
        self.assertEqual(list(read.servers), [("fleet.example", 443), ("2001:db8::1", 4443)])
        self.assertEqual(read.labels[2:], ("alpha", " spaced "))
        self.assertTrue(read.streaming)
        self.assertEqual(read.proxy, "socks5://user:pw@proxy.example:1080")
        self.assertEqual((read.client_certificate_header, read.server_name), ("X-Cert", "other.example"))

    def test_item_8_labels_are_architecture_system_then_the_configured_ones(self) -> None:
        self.config.client_label.extend(["first", " ", "second"])
        expected = (settings.architecture(), settings.operating_system(), "first", "second")
        self.assertEqual(self.read().labels, expected)

    def test_no_state_file_means_a_new_identity_at_every_start(self) -> None:
        self.config.filesystem_handler.state_file = ""
        self.assertIsNone(self.read().state_file)

    def test_each_check_of_the_go_client_in_its_words(self) -> None:
        self.config.proxy = "proxy.example"
        self.assert_refused("unable to parse proxy")
        self.config.ClearField("filesystem_handler")
        self.assert_refused("persistence_handler is required")
        self.config.ClearField("server")
        self.assert_refused("no server provided")
        self.config.trusted_certs = "nothing"
        self.assert_refused("unable to parse trusted_certs")

    def test_the_windows_registry_is_refused_here(self) -> None:
        self.config.registry_handler.configuration_key = "HKEY_LOCAL_MACHINE"
        self.assert_refused("Windows only")

    def test_a_password_in_the_proxy_is_not_told(self) -> None:
        self.config.proxy = "ftp://user:sesame@proxy.example"
        with self.assertRaises(ConfigError) as caught:
            self.read()
        self.assertNotIn("sesame", str(caught.exception))

    def test_a_server_without_port(self) -> None:
        self.config.server[0] = "fleet.example"
        self.assert_refused("expected host:port")

    def test_the_directories_must_exist(self) -> None:
        self.config.filesystem_handler.state_file = str(self.folder / "none" / "state")
        self.assert_refused("does not exist")
        self.config.filesystem_handler.configuration_directory = str(self.folder / "client.config")
        self.assert_refused("is not a directory")
        self.config.filesystem_handler.configuration_directory = ""
        self.assert_refused("configuration_directory is required")

    def test_a_state_file_that_is_a_directory(self) -> None:
        self.config.filesystem_handler.state_file = str(self.folder)
        self.assert_refused("is a directory")

    def test_a_missing_file_and_a_broken_one_are_told_apart(self) -> None:
        with self.assertRaisesRegex(ConfigError, 'unable to read configuration file ".*none": No such file'):
            settings.read_client_config(self.folder / "none")
        (self.folder / "broken").write_text("\nunknown: 1")
        with self.assertRaisesRegex(ConfigError, 'unable to parse configuration file ".*broken": .*broken:2:1: '):
            settings.read_client_config(self.folder / "broken")


class TrustTests(ClientConfigTestCase):
    def setUp(self) -> None:
        super().setUp()
        for name in ("services", "textservices"):
            (self.folder / name).mkdir()

    def test_a_folder_that_others_may_write_is_refused_with_the_remedy(self) -> None:
        for folder in (self.folder / "services", self.folder / "textservices"):
            folder.chmod(0o777)
            self.assert_refused(f"chmod go-w {folder}")
            folder.chmod(0o755)
        self.read()
        self.folder.chmod(0o777)
        with self.assertRaisesRegex(ConfigError, f"chmod go-w {self.folder}"):
            self.read()

    def test_the_file_itself_too(self) -> None:
        self.read()
        path = self.folder / "client.config"
        path.chmod(0o666)
        with self.assertRaisesRegex(ConfigError, 'unable to use configuration file ".*is not safe to use'):
            settings.read_client_config(path)

    def test_insecure_is_a_warning_each(self) -> None:
        self.read()
        self.folder.chmod(0o777)
        path = self.folder / "client.config"
        path.chmod(0o666)
        read = settings.read_client_config(path, trust=Trust(insecure=True))
        self.assertEqual(len(read.warnings), 2)
        self.assertIn(f"{self.folder} is not safe to use", read.warnings[1])

    def test_a_communicator_file_that_others_may_write_is_not_used(self) -> None:
        path = self.folder / "communicator.txt"
        path.write_text("max_poll_delay_seconds: 2")
        path.chmod(0o666)
        read = self.read()
        self.assertEqual(read.communicator, settings.default_communicator())
        self.assertIn(f"{path} is not used, the defaults are: {path} is not safe", read.warnings[0])

    def test_keys_and_certificates_that_others_may_write_are_refused(self) -> None:
        path = self.folder / "pem"
        path.write_text(certificates.to_pem(CA))
        path.chmod(0o666)
        self.assertRaisesRegex(ConfigError, "is not safe", settings.read_deployment_keys, [path])
        self.assertRaisesRegex(ConfigError, "is not safe", settings.small_set_up, path, ["a:1"], self.folder / "own")


class HardcodedTests(ClientConfigTestCase):
    def test_it_counts_more_than_the_file(self) -> None:
        (self.folder / "communicator.txt").write_text("max_poll_delay_seconds: 2")
        path = self.folder / "client.config"
        path.write_text(text_format.MessageToString(self.config))
        names = {
            "SERVERS": ["hard:1"],
            "LABELS": ["hard"],
            "COMMUNICATOR": "min_failure_delay_seconds: 3 max_poll_delay_seconds: -1",
            "SERVICES": ['name: "A" factory: "NOOP"'],
            "DEPLOYMENT_KEYS": [],
            "REVOKED_SERIALS": [7],
        }
        read = settings.read_client_config(path, [self.folder / "none"], hardcoded=hardcoded.parse(names))
        self.assertEqual((list(read.servers), read.labels[2:]), ([("hard", 1)], ("hard",)))
        self.assertEqual(
            (read.communicator.min_failure_delay_seconds, read.communicator.max_poll_delay_seconds), (3, 300)
        )
        self.assertEqual(read.warnings, (
            "fleetspeak_hardcoded.COMMUNICATOR: max_poll_delay_seconds is negative; the default of 300 is used",
        ))  # fmt: skip
        self.assertEqual(([one.name for one in read.fixed_services], read.revoked_serials), (["A"], {b"\x07"}))
        self.assertEqual(read.deployment_keys, (), "the file that a flag names is not even looked for")

    def test_no_file_is_needed_if_everything_is_there(self) -> None:
        found = hardcoded.parse({"CONFIG": text_format.MessageToString(self.config)})
        read = settings.read_client_config(None, hardcoded=found)
        self.assertEqual((list(read.servers), read.state_file), ([("fleet.example", 443)], self.folder / "state"))

    def test_a_mistake_that_only_shows_when_all_is_put_together(self) -> None:
        with self.assertRaisesRegex(ConfigError, "error in fleetspeak_hardcoded: server 'x'"):
            settings.read_client_config(
                None, hardcoded=hardcoded.parse({"TRUSTED_CERTS": certificates.to_pem(CA), "SERVERS": ["x"]})
            )

    def test_the_small_set_up_needs_nothing_but_its_folder(self) -> None:
        found = hardcoded.parse({"TRUSTED_CERTS": certificates.to_pem(CA), "SERVERS": ["a:1"]})
        own = self.folder / "own"
        read = settings.small_set_up(None, [], own, hardcoded=found)
        self.assertEqual((list(read.servers), read.state_file, read.streaming), ([("a", 1)], own / "state", True))


class CommunicatorFileTests(ClientConfigTestCase):
    def _communicator(self, text: str) -> client.CommunicatorConfig:
        (self.folder / "communicator.txt").write_text(text)
        self.settings = self.read()
        return self.settings.communicator

    def test_it_replaces_the_settings_and_zeros_mean_the_defaults(self) -> None:
        read = self._communicator("compression: COMPRESSION_DEFLATE max_poll_delay_seconds: 2 from_the_future: 1")
        self.assertEqual(read.max_poll_delay_seconds, 2)
        self.assertEqual(read.max_buffer_delay_seconds, 5)
        self.assertEqual(read.min_failure_delay_seconds, 300)
        self.assertEqual(read.failure_suicide_time_seconds, 604800)
        self.assertEqual(client.CommunicatorConfig.DESCRIPTOR.full_name, "fleetspeak.client.CommunicatorConfig")
        self.assertEqual(read.compression, 1)

    def test_an_empty_one_gives_the_defaults(self) -> None:
        self.assertEqual(self._communicator(""), settings.default_communicator())

    def test_a_broken_one_is_told_and_the_defaults_are_used(self) -> None:
        self.assertEqual(self._communicator("max_poll_delay_seconds: x"), settings.default_communicator())
        (warning,) = self.settings.warnings
        self.assertIn("communicator.txt:1:25: expected an integer", warning)

    def test_http2_may_be_preferred(self) -> None:
        self.assertTrue(self._communicator("prefer_http2: true").prefer_http2)
        self.assertEqual(self.settings.warnings, ())

    def test_negative_times_are_told_and_replaced(self) -> None:
        read = self._communicator("max_poll_delay_seconds: -1 max_buffer_delay_seconds: 1")
        self.assertEqual((read.max_poll_delay_seconds, read.max_buffer_delay_seconds), (300, 1))
        self.assertIn("max_poll_delay_seconds is negative", self.settings.warnings[0])


class LabelTests(SynchronousTestCase):
    def test_machines_and_systems_go_by_their_go_names(self) -> None:
        for machine, label in {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm",
                               "riscv64": "riscv64", "ppc64le": "ppc64le"}.items():  # fmt: skip
            with mock.patch("platform.machine", return_value=machine):
                self.assertEqual(settings.architecture(), label)
        for platform, label in {
            "linux": "linux",
            "darwin": "darwin",
            "win32": "windows",
            "freebsd14": "freebsd",
        }.items():
            with mock.patch("sys.platform", platform):
                self.assertEqual(settings.operating_system(), label)


class SmallSetUpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.ca = self.folder / "ca.pem"
        self.ca.write_text(certificates.to_pem(CA))

    def test_one_folder_holds_everything_and_is_the_clients_alone(self) -> None:
        own = self.folder / "deep" / "client"
        made = settings.small_set_up(self.ca, ["localhost:4443", "other:4443"], own, labels=["lab"])
        self.assertTrue(made.streaming)
        self.assertEqual(list(made.servers), [("localhost", 4443), ("other", 4443)])
        self.assertEqual((made.configuration_directory, made.state_file), (own, own / "state"))
        self.assertEqual(made.labels[2:], ("lab",))
        self.assertEqual(made.communicator, settings.default_communicator())
        self.assertEqual(own.stat().st_mode & 0o777, 0o700)
        self.assertTrue((own / "services").is_dir() and (own / "textservices").is_dir())
        (own / "communicator.txt").write_text("max_poll_delay_seconds: 2")
        again = settings.small_set_up(self.ca, ["localhost:4443"], own)
        self.assertEqual(again.communicator.max_poll_delay_seconds, 2)

    def test_what_is_wrong_is_named(self) -> None:
        own = self.folder / "client"
        with self.assertRaisesRegex(ConfigError, "unable to read trusted certificates"):
            settings.small_set_up(self.folder / "none", ["a:1"], own)
        with self.assertRaisesRegex(ConfigError, "no server provided"):
            settings.small_set_up(self.ca, [], own)
        with self.assertRaisesRegex(ConfigError, "server 'a'"):
            settings.small_set_up(self.ca, ["a"], own)
        with self.assertRaisesRegex(ConfigError, "unable to make the folder"):
            settings.small_set_up(self.ca, ["a:1"], self.ca / "client")
        (self.folder / "empty").touch()
        with self.assertRaisesRegex(ConfigError, "no certificate in"):
            settings.small_set_up(self.folder / "empty", ["a:1"], own)

    def test_deployment_keys_are_rsa_public_keys(self) -> None:
        key = rsa.generate_private_key(65537, 2048).public_key()
        path = self.folder / "deployment.pem"
        path.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
        made = settings.small_set_up(self.ca, ["a:1"], self.folder / "client", deployment_key_files=[path])
        self.assertEqual([k.public_numbers() for k in made.deployment_keys], [key.public_numbers()])
        with self.assertRaisesRegex(ConfigError, "no public key in"):
            settings.read_deployment_keys([self.ca])
        with self.assertRaisesRegex(ConfigError, "unable to read deployment key"):
            settings.read_deployment_keys([self.folder / "none"])
        path.write_bytes(
            CA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        with self.assertRaisesRegex(ConfigError, "is not an RSA key"):
            settings.read_deployment_keys([path])
