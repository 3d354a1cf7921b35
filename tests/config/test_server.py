"""The server's configuration: the Go server's files and checks (server-core.md 11), and the small set-up."""

from __future__ import annotations

import stat
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

from cryptography import x509
from google.protobuf import text_format
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config import server as settings
from fleetspeak.config.owncertificate import Paths
from fleetspeak.errors import ConfigError
from fleetspeak.pb import components
from fleetspeak.security import certificates, tls
from fleetspeak.wire.dsn import DataSource

NOW = 1_800_000_000.0
YEAR = 365 * 24 * 3600


class ServerConfigTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.components = components.Config()
        self.components.https_config.listen_address = ":443"
        self.components.https_config.certificates = "CERT"
        self.components.https_config.key = "SECRET"
        self.services = ""
        self.store = self.authorizer = ""
        self.database: Path | None = self.folder / "fleetspeak.sqlite"

    def read(self) -> settings.ServerSettings:
        components_path, services_path = self.folder / "components", self.folder / "services"
        components_path.write_text(text_format.MessageToString(self.components))
        services_path.write_text(self.services)
        return settings.read_server_config(components_path, services_path, self.database, self.store, self.authorizer)

    def assert_refused(self, reason: str) -> None:
        with self.assertRaises(ConfigError) as caught:
            self.read()
        self.assertIn("Failed to load components: ", str(caught.exception))
        self.assertIn(reason, str(caught.exception))
        self.assertNotIn("SECRET", str(caught.exception))


class ReadServerConfigTests(ServerConfigTestCase):
    def test_the_smallest_files(self) -> None:
        read = self.read()
        self.assertEqual(read.https_address, ("", 443))
        self.assertEqual((read.certificate_chain, read.key), ("CERT", "SECRET"))
        self.assertTrue(read.streaming)
        self.assertEqual((read.admin_address, read.health_address, read.required_label), (None, None, ""))
        self.assertEqual((read.services, read.broadcast_poll_time), ((), 60.0))
        self.assertEqual(read.warnings, ())
        self.assertEqual(read.database_path, self.database)
        self.assertNotIn("SECRET", repr(read))

    def test_everything_that_can_be_said(self) -> None:
        self.components.https_config.disable_streaming = True
        self.components.https_config.frontend_config.mtls_config.SetInParent()
        self.components.admin_config.listen_address = "localhost:9000"
        self.components.health_check_config.listen_address = "0.0.0.0:8080"
        self.components.required_label = "corp"
        self.services = """
            services { name: "greeter" factory: "GRPC" max_parallelism: 50
              config { [type.googleapis.com/fleetspeak.grpcservice.Config] { target: "localhost:1337" } } }
            broadcast_poll_time { seconds: 30 nanos: 500000000 }"""
        read = self.read()
        self.assertFalse(read.streaming)
        self.assertEqual(read.admin_address, ("localhost", 9000))
        self.assertEqual(read.health_address, ("0.0.0.0", 8080))
        self.assertEqual(read.required_label, "corp")
        self.assertEqual([(s.name, s.factory, s.max_parallelism) for s in read.services], [("greeter", "GRPC", 50)])
        self.assertEqual(read.broadcast_poll_time, 30.5)

    def test_each_check_of_the_go_server_in_its_words(self) -> None:
        self.components.admin_config.SetInParent()
        self.assert_refused("admin_config.listen_address can't be empty")
        self.components.https_config.key = ""
        self.assert_refused("https_config requires listen_address, certificates and key")
        self.components.https_config.frontend_config.cleartext_xfcc_config.SetInParent()
        self.components.https_config.listen_address = ""
        self.assert_refused("http_config requires listen_address")

    def test_an_address_that_is_none(self) -> None:
        self.components.https_config.listen_address = "443"
        self.assert_refused("https_config.listen_address: '443' is not an address")

    def test_the_services_file_is_read_first(self) -> None:
        with self.assertRaisesRegex(
            ConfigError, r"Unable to read services configuration file \[.*none\]: No such file"
        ):
            settings.read_server_config(self.folder / "also none", self.folder / "none")

    def test_unreadable_and_broken_files_are_named(self) -> None:
        self.services = "\n services: 3"
        with self.assertRaisesRegex(ConfigError, r"Unable to parse services configuration file \[.*\]: .*:2:12: "):
            self.read()
        self.services = "broadcast_poll_time { seconds: -1 }"
        with self.assertRaisesRegex(ConfigError, "broadcast_poll_time"):
            self.read()
        (self.folder / "services").write_text("")
        with self.assertRaisesRegex(ConfigError, r"Unable to read component config file \[.*none\]"):
            settings.read_server_config(self.folder / "none", self.folder / "services")
        (self.folder / "broken").write_text("x")
        with self.assertRaisesRegex(ConfigError, r"Unable to parse component config file \[.*broken\]: .*broken:1:1: "):
            settings.read_server_config(self.folder / "broken", self.folder / "services")


class DatabaseTests(ServerConfigTestCase):
    def test_a_dsn(self) -> None:
        self.components.mysql_data_source_name = "fs:SECRET@tcp(db:3307)/fleetspeak"
        self.database = None
        read = self.read()
        self.assertEqual(read.mysql, DataSource("fleetspeak", "fs", "SECRET", "db", 3307))
        self.assertIsNone(read.database_path)
        self.assertNotIn("SECRET", repr(read))

    def test_a_wrong_dsn(self) -> None:
        self.components.mysql_data_source_name = "fs:SECRET@tcp(127.0.0.1:3306)"
        self.database = None
        self.assert_refused("failed to open database: mysql_data_source_name: invalid DSN: missing the slash")

    def test_a_dsn_and_a_database_path_exclude_each_other(self) -> None:
        self.components.mysql_data_source_name = "fs:SECRET@tcp(127.0.0.1:3306)/fleetspeak"
        self.assert_refused("mysql_data_source_name and --database-path name two databases")

    def test_a_store_takes_the_place_of_both(self) -> None:
        self.store = "mysql:/etc/fleet.dsn"
        self.assert_refused("--database-path and --store name two databases")
        self.database = None
        read = self.read()
        self.assertEqual((read.store, read.mysql, read.database_path), ("mysql:/etc/fleet.dsn", None, None))
        self.components.mysql_data_source_name = "user:SECRET@/fleet"
        self.assert_refused("mysql_data_source_name and --store name two databases")

    def test_an_authorizer_and_a_label_exclude_each_other(self) -> None:
        self.authorizer = "label:corp"
        self.assertEqual(self.read().authorizer, "label:corp")
        self.components.required_label = "corp"
        self.assert_refused("required_label and --authorizer")

    def test_neither_says_to_give_a_database_path(self) -> None:
        self.database = None
        self.assert_refused("start with --database-path FILE")


class NotificationTests(ServerConfigTestCase):
    """notification_listen_address, notification_public_address, notification_use_http_notifier (server-core 7)."""

    def test_none(self) -> None:
        read = self.read()
        self.assertEqual(
            (read.notification_address, read.notification_public_address, read.notification_use_http), (None, "", False)
        )

    def test_all(self) -> None:
        self.components.notification_listen_address = ":8081"
        self.components.notification_public_address = "fleet1.example:8081"
        self.components.notification_use_http_notifier = True
        read = self.read()
        self.assertEqual(read.notification_address, ("", 8081))
        self.assertEqual(read.notification_public_address, "fleet1.example:8081")
        self.assertTrue(read.notification_use_http)
        self.assertEqual(read.warnings, ())

    def test_a_public_address_that_nobody_can_use_is_refused(self) -> None:
        self.components.notification_listen_address = ":8081"
        for public in (":8081", "fleet1.example", "fleet1.example:0", "http://fleet1:80/"):
            self.components.notification_public_address = public
            self.assert_refused("notification_public_address: ")
        self.components.notification_public_address = "x" * 120 + ".example:80"
        self.assert_refused("more than 128 characters")

    def test_a_listen_address_that_is_none_is_refused(self) -> None:
        self.components.notification_listen_address = "8081"
        self.assert_refused("notification_listen_address: '8081' is not an address")

    def test_a_public_address_alone_is_warned_of(self) -> None:
        self.components.notification_public_address = "fleet1.example:8081"
        (warning,) = self.read().warnings
        self.assertIn("says nothing without notification_listen_address", warning)

    def test_the_secret_is_not_shown(self) -> None:
        self.assertNotIn("HUSH", repr(replace(self.read(), notification_secret=b"HUSH")))


class StatsTests(ServerConfigTestCase):
    def test_server_core_9_2_metrics_are_where_stats_config_says_and_otherwise_nowhere(self) -> None:
        self.assertIsNone(self.read().stats_address)
        self.components.stats_config.SetInParent()
        self.assertIsNone(self.read().stats_address)
        self.components.stats_config.address = "localhost:2112"
        self.assertEqual(self.read().stats_address, ("localhost", 2112))

    def test_an_address_that_is_none_is_named(self) -> None:
        self.components.stats_config.address = "localhost"
        self.assert_refused("stats_config.address: ")


class NotYetTests(ServerConfigTestCase):
    """What is out of reach is refused by its name, not done by halves."""

    def test_frontend_modes_with_headers(self) -> None:
        for mode in ("https_header_config", "https_header_checksum_config", "cleartext_header_config",
                     "cleartext_header_checksum_config", "cleartext_xfcc_config"):  # fmt: skip
            getattr(self.components.https_config.frontend_config, mode).SetInParent()
            self.assert_refused(f"https_config.frontend_config.{mode} is not in this version yet")

    def test_proxy_protocol_and_spanner(self) -> None:
        self.components.proxy_protocol = True
        self.assert_refused("proxy_protocol is not in this version yet")
        self.components.ClearField("proxy_protocol")
        self.components.spanner_config.SetInParent()
        self.assert_refused("spanner_config is not in this version yet")

    def test_authorization_for_files(self) -> None:
        """Off unless the file asks for it, as upstream has it."""
        self.assertFalse(self.read().file_authorization)
        self.components.https_config.enable_file_server_authorization = True
        self.assertTrue(self.read().file_authorization)

    def test_a_server_nobody_can_reach_is_warned_of(self) -> None:
        self.components.Clear()
        self.assertIn("nobody can reach", self.read().warnings[0])


class SmallSetUpTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.database = self.folder / "fleetspeak.sqlite"
        self.paths = Paths.beside(self.database)

    def make(self, https_addr: str = "127.0.0.1:4443", now: float = NOW) -> settings.ServerSettings:
        return settings.small_set_up(https_addr, "localhost:9000", self.database, now=now)

    def test_the_first_start_makes_an_authority_and_a_certificate_beside_the_database(self) -> None:
        made = self.make()
        self.assertEqual(
            sorted(path.name for path in self.folder.iterdir()),
            ["fleetspeak-ca-key.pem", "fleetspeak-ca.pem", "fleetspeak-server-key.pem", "fleetspeak-server.pem"],
        )
        for path, mode in ((self.paths.ca_key, 0o600), (self.paths.server_key, 0o600), (self.paths.ca, 0o644)):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), mode)
        (ca,) = certificates.load_certificates(self.paths.ca.read_text())
        (server,) = certificates.load_certificates(made.certificate_chain)
        server.verify_directly_issued_by(ca)
        tls.server_options(made.certificate_chain, made.key)
        self.assertEqual((made.https_address, made.admin_address), (("127.0.0.1", 4443), ("localhost", 9000)))
        self.assertEqual(made.database_path, self.database)

    def test_it_tells_where_they_are_and_how_to_start_a_client(self) -> None:
        told = self.make().announcement
        self.assertIn(str(self.paths.ca), told)
        self.assertIn(f"fleetspeak-client --trusted-cert-file {self.paths.ca} --server 127.0.0.1:4443", told)
        self.assertNotIn("PRIVATE", told)

    def test_later_starts_use_the_same(self) -> None:
        first = self.make()
        self.assertEqual(self.make(now=NOW + YEAR / 2), first)

    def test_a_certificate_that_runs_out_is_issued_anew_by_the_same_authority(self) -> None:
        first, ca = self.make(), self.paths.ca.read_bytes()
        second = self.make(now=NOW + YEAR - 24 * 3600)
        self.assertNotEqual(first.certificate_chain, second.certificate_chain)
        self.assertEqual(self.paths.ca.read_bytes(), ca)

    def test_a_machine_that_changed_its_name_gets_a_new_certificate(self) -> None:
        with mock.patch("socket.gethostname", return_value="old"):
            self.make()
        with mock.patch("socket.gethostname", return_value="new"):
            second = self.make()
        (server,) = certificates.load_certificates(second.certificate_chain)
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertIn("new", names.get_values_for_type(x509.DNSName))

    def test_listening_everywhere_names_the_host_localhost_and_all_addresses(self) -> None:
        with mock.patch("socket.gethostname", return_value="box"):
            made = self.make(":4443")
        (server,) = certificates.load_certificates(made.certificate_chain)
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), ["box", "localhost"])
        addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
        self.assertIn("127.0.0.1", addresses)
        self.assertIn("--server box:4443", made.announcement)

    def test_services_may_come_from_a_file(self) -> None:
        path = self.folder / "services"
        path.write_text('services { name: "quiet" factory: "NOOP" }')
        made = settings.small_set_up(":0", "", self.database, services_path=path, now=NOW)
        self.assertEqual([service.name for service in made.services], ["quiet"])
        self.assertIsNone(made.admin_address)

    def test_a_key_that_does_not_belong_is_refused(self) -> None:
        self.make()
        self.paths.ca_key.write_bytes(self.paths.server_key.read_bytes())
        with self.assertRaisesRegex(ConfigError, "do not belong together"):
            self.make()

    def test_a_missing_folder_and_one_that_cannot_be_written_are_named(self) -> None:
        with self.assertRaisesRegex(ConfigError, "does not exist; make it first"):
            settings.small_set_up(":0", "", self.folder / "none" / "db", now=NOW)
        self.paths.ca_key.mkdir()
        with self.assertRaisesRegex(ConfigError, "unable to write"):
            self.make()

    def test_the_clock_is_used_when_no_time_is_given(self) -> None:
        made = settings.small_set_up("127.0.0.1:0", "", self.database)
        (server,) = certificates.load_certificates(made.certificate_chain)
        self.assertLess(abs(server.not_valid_after_utc.timestamp() - time.time() - YEAR), 60)
