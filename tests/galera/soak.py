"""Nodes end and hang at random while stores, and whole servers, are busy: ``make soak-galera`` (datastore 8)."""

from __future__ import annotations

import os
import random
import signal
import time

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from fleetspeak.store.sql import mysql
from fleetspeak.testing.wireclient import Identity
from tests.galera.load import Load
from tests.galera.test_cluster import GaleraCase
from tests.mariadb import Database
from tests.sharing import Sharing, message_for, next_messages
from tests.store.relay import Relay

SECONDS = int(os.environ.get("GALERA_SOAK_SECONDS", "300"))


class SoakTests(GaleraCase):
    timeout = SECONDS + 600

    async def test_nodes_are_killed_at_random(self) -> None:
        """One at a time, or two that hang: quorum is lost, and comes back."""
        self.patch(mysql, "RETRY_TIME", 120.0)
        self.patch(mysql, "SETTLE_TIME", 120.0)
        chance = random.Random(time.time())
        relay = Relay(lambda: chance.choice(self.cluster.nodes).port)
        self.addCleanup(relay.close)
        stores = await self.open(relay.port, relay.port, self.cluster.nodes[0].port)
        load = Load(stores)
        await load.begin()
        end = time.monotonic() + SECONDS
        kills = hangs = 0
        done = Deferred.fromCoroutine(load.run(lambda: time.monotonic() < end))
        while time.monotonic() < end - 30:
            await self.pause(chance.uniform(1, 4))
            if chance.random() < 0.7:
                kills += 1
                node = chance.choice(self.cluster.nodes)
                node.kill()
                await self.pause(chance.uniform(0, 4))
                node.start()
            else:
                hangs += 1
                hung = chance.sample(self.cluster.nodes, 2)
                for node in hung:
                    node.signal(signal.SIGSTOP)
                await self.pause(chance.uniform(1, 6))
                for node in hung:
                    node.signal(signal.SIGCONT)
            await self.until(self.cluster.is_whole)
        await done
        await load.drain()
        print(f"{SECONDS} s: {kills} nodes killed, {hangs} times two hung")
        self.assert_accounted(load)

    async def pause(self, seconds: float) -> None:
        await deferLater(reactor, seconds)  # type: ignore[arg-type]


class ClusterDatabase(Database):
    """An empty database of the cluster, behind a balancer."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self._port = port

    @property
    def dsn(self) -> str:
        return f"root@tcp(127.0.0.1:{self._port})/{self.name}"


class ServersSoakTests(GaleraCase):
    timeout = SECONDS + 600

    async def test_two_servers_and_a_stream(self) -> None:
        """Messages are inserted at one server, for a stream at the other, while the node that both use is killed."""
        sharing = Sharing(ClusterDatabase(self.database, self.balancer()))
        self.addCleanup(sharing.clean_up)
        inserter, holder = sharing.servers
        for server in sharing.servers:
            server.process.start()
        seconds = min(SECONDS, 400)  # of the ten minutes that a stream lives
        identity, accepted, refused, kills = Identity.make(), [], 0, 0
        end, next_kill = time.monotonic() + seconds, time.monotonic() + 5
        first = self.cluster.nodes[0]
        with holder.stream(identity) as stream:
            stub = inserter.admin()
            number = 0
            while time.monotonic() < end:
                if time.monotonic() > next_kill and self.cluster.is_whole():
                    first.kill()
                    first.start()
                    kills += 1
                    next_kill = time.monotonic() + 15
                try:
                    stub.InsertMessage(message_for(identity, str(number)), timeout=60)
                except grpc.RpcError:
                    refused += 1
                else:
                    accepted.append(str(number))
                number += 1
            await self.until(self.cluster.is_whole)
            received = next_messages(stream, len(accepted), 100)
        print(f"{seconds} s: {kills} nodes killed, {len(accepted)} messages accepted, {refused} refused")
        lost = set(accepted) - set(received)
        self.assertEqual(lost, set(), f"{len(lost)} are lost")
        self.assertEqual(len(received), len(set(received)), "none came twice")
