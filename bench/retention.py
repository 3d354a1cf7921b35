"""What polls cost while old rows are deleted from the same MariaDB, and while not.

    .venv/bin/python bench/retention.py [--rows 500000] [--contacts 32] [--seconds 6] [--rounds 5] [--rate 50]
        [--kind messages] [--indexes] [--https]

A private MariaDB with default durability holds so many old messages, contacts and links. In one process, as in a
server, `--contacts` callers each make one exchange after the other (a contact, a message of 1 KiB that is done, a
claim); in turns for `--seconds` without pruning and with it. Then the same with `--rate` exchanges a second, for their
latency. Reported: exchanges per second and latency of each kind of turn as medians over the rounds, with the least and
the most, the ratio of the medians, and how many rows were deleted per second.

With `--https` polls go to a whole server, in a process of its own like those who poll, while `fleetspeak retention`
deletes beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

sys.path.insert(0, str(Path(__file__).parent.parent))

import figures

from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.records import Claim, ClientData, Contact, Exchange, Prunable
from fleetspeak.server.retention import Pruner
from fleetspeak.store.outcome import only
from fleetspeak.store.sql.mysql import MysqlStore
from fleetspeak.store.sql.workers import SWITCH_INTERVAL
from fleetspeak.wire import dsn
from tests.mariadb import Database, MariaDB

DAY = 86_400
PAYLOAD = os.urandom(1024)


def fill(database: Database, rows: int) -> None:
    """Old messages, contacts and links: so many of each, of a thousand clients."""
    old = int(time.time()) - 30 * DAY
    numbers = f"(SELECT seq FROM seq_1_to_{rows}) AS numbers"
    client = "UNHEX(LPAD(HEX(MOD(seq, 1000) + 1000000), 16, '0'))"
    database.query(
        "INSERT INTO clients (client_id, client_key, blacklisted, last_contact_time)"
        f" SELECT UNHEX(LPAD(HEX(seq + 1000000), 16, '0')), X'00', 0, {old * 10**9} FROM seq_0_to_999"
    )
    database.query(
        "INSERT INTO client_contacts (client_id, time, sent_nonce, received_nonce, address)"
        f" SELECT {client}, {old * 10**9}, X'0000000000000000', X'0000000000000000', '10.0.0.1:1234' FROM {numbers}"
    )
    database.query(
        "INSERT INTO messages (message_id, source_client_id, source_service_name, destination_service_name,"
        " message_type, creation_time_seconds, creation_time_nanos, processed_time_seconds, processed_time_nanos)"
        f" SELECT UNHEX(SHA2(seq, 256)), {client}, 'bench', 'bench', 'Bench', {old}, seq, {old}, 0 FROM {numbers}"
    )
    database.query(
        "INSERT INTO client_contact_messages (client_contact_id, message_id)"
        f" SELECT seq, UNHEX(SHA2(seq, 256)) FROM {numbers}"
    )


def exchange_of(client_id: ClientId) -> Exchange:
    """A poll with one message that a service has processed."""
    message = common.Message(
        message_id=os.urandom(32),
        source=common.Address(client_id=client_id, service_name="bench"),
        destination=common.Address(service_name="bench"),
        message_type="BenchMessage",
    )
    message.creation_time.GetCurrentTime()
    message.data.value = PAYLOAD
    message.result.processed_time.GetCurrentTime()
    return Exchange([message], Contact(client_id, 1, 2, "127.0.0.1:1234"), claim=Claim(client_id))


class Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace, store: MysqlStore, reactor: Any) -> None:
        self.options = options
        self.store = store
        self.reactor = reactor
        self.clients = [ClientId((number + 1).to_bytes(8, "big")) for number in range(options.contacts)]

    async def turn(self, paced: bool) -> tuple[float, list[float]]:
        """Exchanges for so many seconds: how many a second, and their latencies."""
        latencies: list[float] = []
        begun = self.reactor.seconds()
        end = begun + self.options.seconds
        pause = len(self.clients) / self.options.rate if paced else 0.0

        async def caller(client_id: ClientId) -> None:
            if paced:
                await deferLater(self.reactor, random.random() * pause)
            while self.reactor.seconds() < end:
                at = self.reactor.seconds()
                await only(self.store.exchange([exchange_of(client_id)]))
                latencies.append(self.reactor.seconds() - at)
                if paced:
                    await deferLater(self.reactor, max(0.0, at + pause - self.reactor.seconds()))

        await gatherResults([Deferred.fromCoroutine(caller(client_id)) for client_id in self.clients])
        return len(latencies) / (self.reactor.seconds() - begun), latencies

    async def with_pruning(self, paced: bool) -> tuple[float, list[float], float]:
        """The same while a pass runs; and how many rows a second it deletes."""
        pruner = Pruner(self.store, {Prunable(self.options.kind): 7 * DAY}, self.reactor, time.time_ns)
        state = await pruner.begin()
        assert state is not None
        begun = self.reactor.seconds()
        running = Deferred.fromCoroutine(pruner.finish_pass(state))
        rate, latencies = await self.turn(paced)
        pruner.going = False
        pruner.wake()
        if await running:
            raise SystemExit("there were too few rows: raise --rows")
        return rate, latencies, pruner.rows.total() / (self.reactor.seconds() - begun)

    async def compare(self, paced: bool) -> None:
        """Turns, and what came of them."""
        rates: dict[str, list[float]] = {"without": [], "with": []}
        medians: dict[str, list[float]] = {"without": [], "with": []}
        tails: dict[str, list[float]] = {"without": [], "with": []}
        deleted: list[float] = []
        for _ in range(self.options.rounds):
            for kind in ("without", "with"):
                if kind == "with":
                    rate, latencies, rows = await self.with_pruning(paced)
                    deleted.append(rows)
                else:
                    rate, latencies = await self.turn(paced)
                cuts = statistics.quantiles(latencies, n=100)
                rates[kind].append(rate)
                medians[kind].append(cuts[49] * 1000)
                tails[kind].append(cuts[98] * 1000)
        print(
            f"{'paced' if paced else 'as fast as it goes'}, {len(self.clients)} callers, {self.options.rounds} rounds"
        )
        for name, values in (("exchanges/s", rates), ("latency p50 ms", medians), ("latency p99 ms", tails)):
            ratio = statistics.median(values["with"]) / statistics.median(values["without"])
            print(
                f"  {name:<16}"
                + "   ".join(f"{kind} {_spread(values[kind])}" for kind in values)
                + f"   ratio {ratio:.2f}"
            )
        print(f"  {'deleted rows/s':<16}{_spread(deleted)}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def polls(options: argparse.Namespace) -> None:
    """Polls over HTTPS to a server, with and without the command beside it."""
    database_server = MariaDB(["--innodb-buffer-pool-size=256M"])
    try:
        database = database_server.new_database()
        with tempfile.TemporaryDirectory() as name:
            folder, port = Path(name), figures.free_port()
            (folder / "dsn").write_text(database.dsn)
            (folder / "dsn").chmod(0o600)
            (folder / "services.textproto").write_text(figures.SERVICES)
            arguments = [f"--https-addr=127.0.0.1:{port}", "--admin-addr=", "--store=mysql:dsn"]
            arguments.append("--services-config=services.textproto")
            with figures.running_program(folder, "Fleetspeak server started", "fleetspeak-server", *arguments):
                fill(database, options.rows)
                argv = ["load.py", "poll", "localhost", port, folder / "fleetspeak-ca.pem", options.contacts, 1, 1024]
                compare_polls(options, database, [*map(str, argv), str(options.seconds)], folder)
    finally:
        database_server.stop()


def compare_polls(options: argparse.Namespace, database: Database, load: list[str], folder: Path) -> None:
    """Turns, and what came of them."""
    found: dict[str, dict[str, list[float]]] = {}
    deleted = 0
    for _ in range(options.rounds):
        for kind in ("without", "with"):
            before = _old_rows(database)
            with contextlib.ExitStack() as stack:
                if kind == "with":
                    stack.enter_context(_pruning(options, folder))
                done = subprocess.run([sys.executable, *load], cwd=figures.HERE, stdout=subprocess.PIPE, check=True)
            deleted += before - _old_rows(database)
            result = json.loads(done.stdout.splitlines()[-1])
            for name, value in (
                ("polls/s", result["contacts"] / result["seconds"]),
                *((f"latency {quantile} ms", result[quantile]) for quantile in ("p50", "p99")),
            ):
                found.setdefault(name, {}).setdefault(kind, []).append(value)
    print(f"polls over HTTPS, {options.contacts} clients, {options.rounds} rounds")
    for name, values in found.items():
        ratio = statistics.median(values["with"]) / statistics.median(values["without"])
        print(f"  {name:<16}", *(f"{kind} {_spread(values[kind])}  " for kind in values), f"ratio {ratio:.2f}")
    print(f"  deleted {options.kind}: {deleted}")


def _old_rows(database: Database) -> int:
    [(count,)] = database.query("SELECT COUNT(*) FROM messages WHERE message_type = 'Bench'")
    assert isinstance(count, int)
    return count


@contextlib.contextmanager
def _pruning(options: argparse.Namespace, folder: Path) -> Iterator[None]:
    program = Path(sys.executable).parent / "fleetspeak"
    argv = [program, "retention", "--store=mysql:dsn", f"--{options.kind}=7d"]
    process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        if process.poll() is not None:
            raise SystemExit("there were too few rows: raise --rows")
    finally:
        process.terminate()
        process.wait(30)


async def run(options: argparse.Namespace, reactor: Any) -> None:
    """All of it."""
    server = MariaDB(["--innodb-buffer-pool-size=256M"])
    try:
        database = server.new_database()
        store = MysqlStore(dsn.parse(database.dsn), reactor=reactor)
        await store.open()
        fill(database, options.rows)
        if options.indexes:
            await store.create_time_indexes()
        bench = Bench(options, store, reactor)
        for client_id in bench.clients:
            await store.add_client(client_id, ClientData(b"key"))
        await bench.turn(False)  # warm up
        await bench.compare(False)
        await bench.compare(True)
        for table in ("messages", "client_contacts"):
            print(f"  left in {table}: {database.query(f'SELECT COUNT(*) FROM {table}')[0][0]}")
        await store.close()
    finally:
        server.stop()


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--contacts", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=50.0, help="exchanges a second of the paced part")
    parser.add_argument("--kind", default="messages", choices=["messages", "contacts"], help="what is deleted")
    parser.add_argument("--indexes", action="store_true", help="with the indexes by time")
    parser.add_argument("--https", action="store_true", help="polls of a whole server")
    options = parser.parse_args()
    if options.https:
        polls(options)
        return
    sys.setswitchinterval(SWITCH_INTERVAL)
    react(lambda reactor: Deferred.fromCoroutine(run(options, reactor)))


if __name__ == "__main__":
    main()
