"""How long a broadcast takes to reach clients that are connected.

    .venv/bin/python bench/broadcast.py [--clients 1000] [--rate 500] [--limited] [--database DSN]

A whole server in a process of its own, and so many streams on blocking sockets in this one.  Reported: seconds from
before CreateBroadcast to the moment at which the first, the middle and the last of them has it.
"""

from __future__ import annotations

import argparse
import select
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fleetspeak.pb import admin, common
from fleetspeak.records import UNLIMITED
from fleetspeak.testing.wireclient import Identity, Stream
from tests.fleet.server import SmallServer
from tests.programs import Program


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=500.0, help="clients a second")
    parser.add_argument("--limited", action="store_true", help="with a limit of as many clients as there are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = SmallServer(Path(folder), "")
        argv = [*server.command_line(), f"--broadcast-rate={options.rate}"]
        server.program = Program("server", argv, folder=server.folder)
        try:
            server.program.wait_for_line("Fleetspeak server started")
            took = measure(server, options.clients, options.clients if options.limited else UNLIMITED)
        finally:
            server.clean_up()
    print(f"{len(took)} clients: first {took[0]:.2f} s, middle {took[len(took) // 2]:.2f} s, last {took[-1]:.2f} s")


def measure(server: SmallServer, clients: int, limit: int) -> list[float]:
    """The seconds after which each client had it, in ascending order."""
    first = common.ContactData()
    waiting = {}
    poll = select.poll()
    for _ in range(clients):
        connection = server.connect(Identity.make())
        waiting[connection.fileno()] = Stream(connection, first)
        poll.register(connection, select.POLLIN)
    stub = server.admin()
    stub.KeepAlive(common.EmptyMessage(), timeout=10)
    request = admin.CreateBroadcastRequest(limit=limit)
    request.broadcast.source.service_name = "bench"
    request.broadcast.data.value = bytes(1024)
    took: list[float] = []
    begun = time.monotonic()
    stub.CreateBroadcast(request, timeout=10)
    while len(took) < clients:
        ready = poll.poll(60_000)
        if not ready:
            raise SystemExit(f"only {len(took)} of {clients} clients got it")
        for number, _ in ready:
            poll.unregister(number)
            while not waiting[number].receive().messages:
                continue
            took.append(time.monotonic() - begun)
    return took


if __name__ == "__main__":
    main()
