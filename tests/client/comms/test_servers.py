from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms.servers import RETURN_DELAY, Server, ServerList


class ServerListTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.servers = ServerList([("a", 1), ("b", 2), ("c", 3)])

    def test_the_configured_order_at_first(self) -> None:
        self.assertEqual([str(server) for server in self.servers.order()], ["a:1", "b:2", "c:3"])

    def test_item_57_the_one_that_worked_changes_places_with_the_first(self) -> None:
        """client-https 2."""
        for _ in range(2):
            self.servers.worked(Server("c", 3), 0, 0.0)
            self.assertEqual(self.tried(0), ["c:3", "b:2", "a:1"])

    def tried(self, now: float) -> list[str]:
        return [str(server) for server in self.servers.to_try(now)]

    def test_the_preferred_one_is_tried_first_again_after_a_while(self) -> None:
        self.servers.worked(Server("c", 3), 100, 0.5)
        self.servers.worked(Server("c", 3), 2000, 0.5)
        self.assertEqual(self.tried(100 + 1.25 * RETURN_DELAY - 1), ["c:3", "b:2", "a:1"])
        self.assertEqual(self.tried(100 + 1.25 * RETURN_DELAY), ["a:1", "c:3", "b:2"])
        self.servers.worked(Server("a", 1), 3000, 0.5)
        self.assertEqual(self.tried(10**9), ["a:1", "c:3", "b:2"])

    def test_if_it_is_still_down_the_next_look_comes_as_long_after_that(self) -> None:
        self.servers.worked(Server("b", 2), 0, 0.0)
        self.assertEqual(self.tried(RETURN_DELAY)[0], "a:1")
        self.servers.worked(Server("b", 2), RETURN_DELAY, 0.0)
        self.assertEqual(self.tried(2 * RETURN_DELAY - 1)[0], "b:2")
        self.assertEqual(self.tried(2 * RETURN_DELAY)[0], "a:1")

    def test_an_ipv6_address_is_in_brackets(self) -> None:
        self.assertEqual(str(Server("2001:db8::1", 443)), "[2001:db8::1]:443")
