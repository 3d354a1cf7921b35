"""By which address other servers reach a listener (server-core 7 [improve])."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ConfigError
from fleetspeak.server.notify.addresses import FAR_AWAY, public_address, source_towards


class PublicAddressTests(SynchronousTestCase):
    def test_a_host_that_is_named_is_what_others_are_told(self) -> None:
        self.assertEqual(public_address("10.0.0.5", 8081), "10.0.0.5:8081")
        self.assertEqual(public_address("::1", 8081), "[::1]:8081")

    def test_all_addresses_the_one_on_the_way_to_the_database(self) -> None:
        """Not upstream's [::]:8080, which other hosts cannot use."""
        ways = {"10.1.0.1": "10.1.0.7", FAR_AWAY: "192.168.0.7", "fd00::1": "fd00::7", "127.0.0.1": "127.0.0.1"}
        for host in ("", "::", "0.0.0.0"):
            self.assertEqual(public_address(host, 81, "10.1.0.1", ways.__getitem__), "10.1.0.7:81")
        self.assertEqual(public_address("", 81, "fd00::1", ways.__getitem__), "[fd00::7]:81")
        for database in ("127.0.0.1", "db.example", ""):
            self.assertEqual(public_address("", 81, database, ways.__getitem__), "192.168.0.7:81")

    def test_no_usable_one_is_refused_with_what_to_do(self) -> None:
        for own in ("", "127.0.0.1", "::1"):
            with self.assertRaisesRegex(ConfigError, 'notification_public_address, such as "server1.example:81"'):
                public_address("", 81, "10.1.0.1", lambda destination: own)  # noqa: B023

    def test_the_way_to_somewhere(self) -> None:
        self.assertEqual(source_towards("127.0.0.1"), "127.0.0.1")
        self.assertEqual(source_towards("nonsense"), "")
