"""A server's backlog in a process of its own, with a service that kills it.

Takes a database and the time, in seconds; says what it sees, line by line, and ends when nothing is due any more.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from zope.interface import implementer

from fleetspeak.interfaces import IServerService
from fleetspeak.pb import common
from fleetspeak.records import RetryLimits
from fleetspeak.server.services.backlog import Backlog
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.store.sqlite import SqliteStore


@implementer(IServerService)
class Poisoned:
    """Is killed by its first message."""

    def start(self) -> None:
        """Ready."""

    def stop(self) -> None:
        """Done."""

    def process(self, message: common.Message) -> None:
        print("processing", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


async def main(path: str, now_ns: int) -> None:
    def now() -> int:
        return now_ns

    store = SqliteStore(path, now_ns=now, uniform=lambda: 0.0)
    await store.open()
    manager = ServiceManager(reactor, now)
    manager.add("TestServiceName", Poisoned())
    backlog = Backlog(store, manager, reactor, now, limits=RetryLimits(max_attempts=3))
    backlog.start()
    while (due := await store.next_overdue()) is not None and due <= now_ns:
        await task.deferLater(reactor, 0.01)  # type: ignore[arg-type]
    await backlog.stop()
    await store.close()
    print("survived", flush=True)


if __name__ == "__main__":
    work = Deferred.fromCoroutine(main(sys.argv[1], int(sys.argv[2]) * 10**9))
    running: Any = reactor
    work.addErrback(lambda failure: failure.printTraceback())
    work.addBoth(lambda _: running.callLater(0, running.stop))
    running.run()
