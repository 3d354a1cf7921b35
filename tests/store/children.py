"""Programs that the tests of the SQL stores run as processes of their own, in order to mistreat them.

python -m tests.store.children write PATH|DSN    stores for ever; prints the number of each exchange when it is done
python -m tests.store.children full PATH         runs into a limit of its files' size, and goes on without it
"""

from __future__ import annotations

import resource
import sys
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from fleetspeak.errors import StoreError
from fleetspeak.records import ClientData, Exchange
from fleetspeak.store.outcome import only
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.sql.store import SqlStore
from fleetspeak.store.sqlite import SqliteStore
from fleetspeak.testing.storecontract.base import C1, from_client, poll, to_client
from fleetspeak.wire import dsn

CALLERS = 20
MESSAGES = 3


def messages_of(exchange: int) -> list[Any]:
    """What is stored by the exchange of this number."""
    first = exchange * MESSAGES
    return [from_client(first), from_client(first + 1), to_client(first + 2)]


async def write(store: SqlStore) -> None:
    """Several callers store exchanges, one after the other, for ever."""
    await store.open()
    await store.add_client(C1, ClientData(b"key"))

    async def caller(first: int) -> None:
        number = first
        while True:
            await only(store.exchange([Exchange(messages_of(number), poll())]))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            number += CALLERS

    await gatherResults([Deferred.fromCoroutine(caller(first)) for first in range(CALLERS)])


async def full(store: SqlStore) -> None:
    """Store until the files may not grow any more, then again without that limit."""
    await store.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    stored = 0
    try:
        while True:
            await store.store_messages([_large(stored)])
            stored += 1
    except StoreError as error:
        sys.stdout.write(f"{stored}\n{error}\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.store_messages([_large(stored), _large(stored + 1)])
    sys.stdout.write(f"{stored + 2}\n")
    await store.close()


def _large(number: int) -> Any:
    message = from_client(number)
    message.data.value = bytes(100_000)
    return message


if __name__ == "__main__":
    program = {"write": write, "full": full}[sys.argv[1]]
    place = sys.argv[2]

    def make_store(reactor: Any) -> SqlStore:
        return MysqlStore(dsn.parse(place), reactor=reactor) if "@" in place else SqliteStore(place, reactor=reactor)

    react(lambda reactor: Deferred.fromCoroutine(program(make_store(reactor))))
