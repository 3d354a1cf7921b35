"""End to end (client-tests 129): clients with daemons, a balancer with the PROXY protocol, two servers on one database.

The servers are upstream's, which alone have the PROXY protocol and a shared database so far.
"""

from __future__ import annotations

from unittest import TestCase

from fleetspeak.pb import components, frr
from tests.programs import eventually, free_port

from .balancer import start_balancer
from .fleet import OURS, STREAMING, UPSTREAM, Server
from .frr import FrrFleet, frr_daemon

CLIENTS = 3
LIMIT = 60.0
"""Seconds until all have answered; upstream's test has 300."""


class BalancedTests(TestCase):
    def setUp(self) -> None:
        self.fleet = FrrFleet(UPSTREAM)
        self.addCleanup(self.fleet.clean_up)
        other = Server(UPSTREAM, self.fleet.deployment, "other-server", {}, self.fleet.services)
        self.addCleanup(other.clean_up)
        self.servers = [self.fleet.server, other]
        self.database = self.fleet.server.database.dsn
        self.ports = [free_port(), free_port()]

    def start_servers(self) -> None:
        for number, server in enumerate(self.servers):
            server.reconfigure(lambda config, number=number: self.put_behind_the_balancer(config, number))
            server.start()

    def put_behind_the_balancer(self, config: components.Config, number: int) -> None:
        config.mysql_data_source_name = self.database
        config.https_config.listen_address = f"127.0.0.1:{self.ports[number]}"
        config.proxy_protocol = True
        config.notification_listen_address = f"127.0.0.1:{free_port()}"
        if number:
            config.admin_config.listen_address = f"127.0.0.1:{free_port()}"

    def start_clients(self) -> None:
        """With an empty communicator.txt, and a state file that is there and empty."""
        self.fleet.add_clients(OURS, STREAMING, CLIENTS)
        for client in self.fleet.clients:
            (client.folder / "etc" / "textservices" / "frr").write_text(frr_daemon())
            (client.folder / "etc" / "communicator.txt").write_text("")
            (client.folder / "state").touch()
        self.fleet.start_clients()

    def test_item_129_broadcast_and_unicast_through_a_balancer(self) -> None:
        self.start_servers()
        self.balancer = start_balancer(self.fleet.deployment.folder, self.fleet.deployment.https_port, self.ports)
        self.addCleanup(self.balancer.make_sure_it_ended)
        broadcast = frr.TrafficRequestData(master_id=1, request_id=1, num_messages=1, message_size=1)
        self.fleet.broadcast("TrafficRequest", broadcast, CLIENTS)
        self.start_clients()
        eventually(lambda: len(self.fleet.master.clients()) == CLIENTS, "the clients are listed", 10)
        self.fleet.await_completion(1, CLIENTS, LIMIT)
        unicast = frr.TrafficRequestData(master_id=1, request_id=2, num_messages=1, message_size=1)
        for client in self.fleet.clients:
            self.fleet.unicast("TrafficRequest", unicast, client.client_id)
        self.fleet.await_completion(2, CLIENTS, LIMIT)
        for request in (1, 2):
            self.assertEqual(sorted(self.fleet.responses(request).values()), [1] * CLIENTS)
        addresses = {address for client in self.fleet.clients for address in self.fleet.addresses(client.client_id)}
        self.assertEqual({address.rpartition(":")[0] for address in addresses}, {"127.0.0.1"})
        for client in self.fleet.clients:
            client.stop()
        for number in range(len(self.servers)):
            self.balancer.wait_for_line(f" servers/server{number} ")
