"""A server's broadcasts as a process of its own, to be killed: python -m tests.server.broadcastchild PATH|DSN HOURS.

It sends to its clients, again and again, and prints a line for each round.  Its clock is so many hours ahead.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from fleetspeak.ids import ClientId
from fleetspeak.server.broadcasts import BroadcastManager
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.sql.store import SqlStore
from fleetspeak.store.sqlite import SqliteStore
from fleetspeak.wire import dsn

CLIENTS = [ClientId(number.to_bytes(8, "big")) for number in range(1, 301)]
CALLERS = 8
POLL_TIME = 0.5


async def send(reactor: Any, place: str, hours: float) -> None:
    """Begin, and send for ever."""

    def now_ns() -> int:
        return time.time_ns() + int(hours * 3600e9)

    store: SqlStore
    if "@" in place:
        store = MysqlStore(dsn.parse(place), now_ns=now_ns, reactor=reactor)
    else:
        store = SqliteStore(place, now_ns=now_ns, reactor=reactor)
    await store.open()
    manager = BroadcastManager(store, Dispatcher(), reactor, now_ns, poll_time=POLL_TIME)
    await manager.start()

    async def caller() -> None:
        while True:
            for client_id in random.sample(CLIENTS, 10):
                if manager.may_have(client_id, frozenset()):
                    await manager.take(client_id, frozenset(), None, "")
            sys.stdout.write("round\n")
            sys.stdout.flush()
            await deferLater(reactor, 0.01)

    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(CALLERS)])


def main(reactor: Any, place: str, hours: str) -> Any:
    return Deferred.fromCoroutine(send(reactor, place, float(hours)))


if __name__ == "__main__":
    react(main, sys.argv[1:])
