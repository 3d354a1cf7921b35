"""What the client's spool costs: messages that are on the disk per second, and CPU time for each.

    .venv/bin/python bench/spool.py [--seconds 3] [--runs 5] [--folder DIR] [WHAT ...]

WHAT: outbox-1 outbox-10 outbox-64 (so many senders in the client, each with one message of 1 KiB on its way),
memory-64 (the same without a spool), offline-64 (no server: everything stays on the disk), daemon-1 daemon-64 (a real
process with so many threads that call Send), daemon-memory-1 (the same without a spool).  CPU is the client's alone,
threads and all; each figure is the median of the runs, with their min and max.  `--folder` says on which disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.services.daemon import DaemonFactory
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.client.spool.spool import Spool
from fleetspeak.client.spool.thread import SpoolThread
from fleetspeak.core.spool import segment_size
from fleetspeak.pb import common, daemon_config
from fleetspeak.testing.clientside import TEST_CLIENT_ID, RecordingContext

LIMIT = 4 << 30
WHAT = (
    "outbox-1",
    "outbox-10",
    "outbox-64",
    "memory-64",
    "offline-64",
    "daemon-1",
    "daemon-64",
    "daemon-memory-1",
)

SENDER = """
import sys, threading
from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.pb import common
connection = FleetspeakConnection()
def send():
    while True:
        message = common.Message(message_type="bench", destination=common.Address(service_name="bench"))
        message.data.value = bytes(1000)
        connection.Send(message)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=send).start()
"""


def message() -> common.Message:
    """1 KiB, as the router stamps it."""
    made = common.Message(
        message_type="bench",
        source_message_id=bytes(16),
        source=common.Address(client_id=TEST_CLIENT_ID, service_name="bench"),
        destination=common.Address(service_name="bench"),
    )
    made.data.value = bytes(970)
    return made


class Run:
    """One outbox, whoever fills it, and a server that confirms at once."""

    def __init__(self, folder: Path, *, spooled: bool, online: bool) -> None:
        spool = None
        if spooled:
            files = SpoolFolder(folder / "state.spool", segment_size(LIMIT))
            spool = Spool(files, LIMIT, SpoolThread(reactor), reactor)
        self.outbox = ClientOutbox(spool=spool)
        self.outbox.open()
        self.accepted = 0
        self.running = True
        if online:
            Deferred.fromCoroutine(self.serve()).addErrback(lambda failure: None)

    async def serve(self) -> None:
        """Take what there is, a contact full at a time."""
        while self.running:
            self.ready = self.outbox.when_ready()
            await self.ready
            await deferLater(reactor, 0)  # type: ignore[arg-type]
            self.outbox.ack(self.outbox.take(100, 15 << 20))

    def submit(self, sent: common.Message, on_ack: Callable[[], None] | None = None) -> Deferred[None]:
        accepted = self.outbox.submit(sent, on_ack, spool=True)
        accepted.addCallback(self.count)
        return accepted

    def count(self, _: None) -> None:
        self.accepted += 1

    async def send(self) -> None:
        while self.running:
            accepted = self.submit(message())
            if accepted.called:
                await deferLater(reactor, 0)  # type: ignore[arg-type]
            await accepted

    async def measure(self, seconds: float) -> dict[str, float]:
        """From a moment on when it is under way."""
        await deferLater(reactor, 0.5)  # type: ignore[arg-type]
        count, wall, cpu = self.accepted, time.monotonic(), time.process_time()
        await deferLater(reactor, seconds)  # type: ignore[arg-type]
        count, wall, cpu = self.accepted - count, time.monotonic() - wall, time.process_time() - cpu
        return {"messages_per_second": count / wall, "cpu_us_per_message": cpu / count * 1e6}

    async def close(self) -> None:
        self.running = False
        await self.outbox.close()


async def once(what: str, seconds: float, folder: Path) -> dict[str, float]:
    """One run."""
    kind, _, senders = what.rpartition("-")
    run = Run(folder, spooled="memory" not in kind, online=kind != "offline")
    service = None
    if kind.startswith("daemon"):
        context: Any = RecordingContext("bench", reactor)
        context.send, context.spooled = run.submit, run.outbox.spooled
        config = daemon_config.Config(argv=[sys.executable, "-c", SENDER, senders])
        service = DaemonFactory().make(config, context)
        service.start()
        await deferLater(reactor, 1.0)  # type: ignore[arg-type]
    else:
        for _ in range(int(senders)):
            Deferred.fromCoroutine(run.send()).addErrback(lambda failure: None)
    figures = await run.measure(seconds)
    if service is not None:
        await service.stop()
    await run.close()
    return figures


async def main(reactor: Any, options: argparse.Namespace) -> None:
    for what in options.what or WHAT:
        runs = []
        for _ in range(options.runs):
            folder = Path(tempfile.mkdtemp(dir=options.folder))
            try:
                runs.append(await once(what, options.seconds, folder))
            finally:
                shutil.rmtree(folder)
        figures = {name: _spread([run[name] for run in runs]) for name in runs[0]}
        print(json.dumps({"what": what, **figures, "runs": len(runs)}), flush=True)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 1), "min": round(min(values), 1), "max": round(max(values), 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("what", nargs="*", metavar="WHAT")
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, options)))
