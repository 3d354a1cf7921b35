"""Nodes end and hang at random while three stores are busy: ``make soak-galera`` (datastore 8)."""

from __future__ import annotations

import os
import random
import signal
import time
from unittest import skipUnless

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from fleetspeak.store.sql import mysql
from tests.galera.load import Load
from tests.galera.test_cluster import GaleraCase
from tests.store.relay import Relay

SECONDS = int(os.environ.get("GALERA_SOAK_SECONDS", "0"))


@skipUnless(SECONDS, "set GALERA_SOAK_SECONDS")
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
