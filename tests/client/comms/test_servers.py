from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms.servers import Server, ServerList


class ServerListTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.servers = ServerList([("a", 1), ("b", 2), ("c", 3)])

    def test_the_configured_order_at_first(self) -> None:
        self.assertEqual([str(server) for server in self.servers.order()], ["a:1", "b:2", "c:3"])

    def test_the_one_that_worked_changes_places_with_the_first(self) -> None:
        """client-https 2."""
        self.servers.worked(self.servers.order()[2])
        self.assertEqual([str(server) for server in self.servers.order()], ["c:3", "b:2", "a:1"])
        self.servers.worked(self.servers.order()[0])
        self.assertEqual([str(server) for server in self.servers.order()], ["c:3", "b:2", "a:1"])

    def test_an_ipv6_address_is_in_brackets(self) -> None:
        self.assertEqual(str(Server("2001:db8::1", 443)), "[2001:db8::1]:443")
