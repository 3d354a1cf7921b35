"""How fast the SQLite store carries out exchanges, alone and beside a thread that keeps the interpreter busy.

    .venv/bin/python bench/store_exchange.py [--contacts 64] [--seconds 4] [--switch-interval 0.0002] [--burst 0.0003]

`--contacts` callers each make one exchange after the other: a contact, so many messages of 1 KiB with or without a
result, a claim.  Reported: exchanges and messages per second, latency of an exchange, how many go into a transaction,
and the CPU time of the process for one message.  With ``busy`` a second thread burns CPU in Python, as a reactor
would that has much to do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.timestamp_pb2 import Timestamp
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from fleetspeak.ids import ClientId, MessageId
from fleetspeak.pb import common
from fleetspeak.records import Ack, Claim, ClientData, Contact, Exchange, Exchanged
from fleetspeak.store.outcome import only
from fleetspeak.store.sql import workers
from fleetspeak.store.sqlite import SqliteStore

PAYLOAD = os.urandom(1024)


class Meter:
    """What one run measures."""

    def __init__(self) -> None:
        self.exchanges = 0
        self.messages = 0
        self.latencies: list[float] = []
        self.batches: list[int] = []


def message(client_id: ClientId, kind: str) -> common.Message:
    """A message of a client: done, as a service leaves it; or pending."""
    made = common.Message(
        message_id=os.urandom(32),
        source=common.Address(client_id=client_id, service_name="bench"),
        source_message_id=os.urandom(16),
        destination=common.Address(service_name="bench"),
        message_type="BenchMessage",
    )
    made.creation_time.GetCurrentTime()
    if kind == "done":
        made.result.processed_time.GetCurrentTime()
    else:
        made.data.CopyFrom(AnyProto(type_url="type.googleapis.com/bench", value=PAYLOAD))
    return made


def outgoing(client_id: ClientId) -> common.Message:
    """A message for a client."""
    return common.Message(
        message_id=os.urandom(32),
        source=common.Address(service_name="bench"),
        destination=common.Address(client_id=client_id, service_name="bench"),
        message_type="BenchMessage",
        creation_time=Timestamp(seconds=int(time.time())),
        data=AnyProto(type_url="type.googleapis.com/bench", value=PAYLOAD),
    )


async def upload(store: SqliteStore, client_id: ClientId, count: int, kind: str, end: float, meter: Meter) -> None:
    """Exchanges of one client that sends messages."""
    number = 0
    while time.perf_counter() < end:
        number += 1
        messages = [message(client_id, kind) for _ in range(count)]
        begin = time.perf_counter()
        await store.message_results([MessageId(one.message_id) for one in messages])
        contact = Contact(client_id, number, number, "127.0.0.1:4711")
        await only(store.exchange([Exchange(messages, contact, claim=Claim(client_id))]))
        meter.latencies.append(time.perf_counter() - begin)
        meter.exchanges += 1
        meter.messages += count


async def download(store: SqliteStore, client_id: ClientId, count: int, end: float, meter: Meter) -> None:
    """Messages for one client: inserted, claimed, acknowledged."""
    while time.perf_counter() < end:
        begin = time.perf_counter()
        await store.store_messages([outgoing(client_id) for _ in range(count)])
        exchanged: Exchanged = await only(store.exchange([Exchange(claim=Claim(client_id))]))
        assert len(exchanged.messages) == count
        await store.acknowledge([Ack(client_id, [MessageId(one.message_id) for one in exchanged.messages])])
        meter.latencies.append(time.perf_counter() - begin)
        meter.exchanges += 1
        meter.messages += count


def watch_batches(meter: Meter) -> None:
    """Have the sizes of the batches noted."""
    plain = workers.carry_out

    def counted(database: object, calls: Sequence[object]) -> object:
        meter.batches.append(len(calls))
        return plain(database, calls)  # type: ignore[arg-type, type-var]

    workers.carry_out = counted  # type: ignore[assignment]


async def run(args: argparse.Namespace, kind: str, count: int, busy: bool) -> None:
    """One measurement, on a new database."""
    stop = threading.Event()
    thread = threading.Thread(target=burn, args=(stop, args.burst), daemon=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = SqliteStore(f"{folder}/bench.sqlite")
        await store.open()
        clients = [ClientId(number.to_bytes(8, "big")) for number in range(1, args.contacts + 1)]
        await gatherResults([store.add_client(client_id, ClientData(bytes(91))) for client_id in clients])
        if busy:
            thread.start()
        meter = Meter()
        plain = workers.carry_out
        watch_batches(meter)
        begin, cpu = time.perf_counter(), time.process_time()
        end = begin + args.seconds
        if kind == "down":
            work = [Deferred.fromCoroutine(download(store, one, count, end, meter)) for one in clients]
        else:
            work = [Deferred.fromCoroutine(upload(store, one, count, kind, end, meter)) for one in clients]
        await gatherResults(work)
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
        workers.carry_out = plain
        stop.set()
        await store.close()
    report(kind, count, busy, meter, took, cpu)


def burn(stop: threading.Event, burst: float) -> None:
    """Keep the interpreter busy, but for a system call after each `burst` seconds, as a reactor makes them."""
    while not stop.is_set():
        end = time.perf_counter() + burst
        while time.perf_counter() < end:
            bytes(16)
        os.stat("/")


def report(kind: str, count: int, busy: bool, meter: Meter, took: float, cpu: float) -> None:
    """One line."""
    latencies = sorted(meter.latencies)
    p50, p95 = (latencies[len(latencies) * percent // 100] * 1000 for percent in (50, 95))
    cpu_text = "      -" if busy else f"{cpu / meter.messages * 1000:7.3f}"
    print(
        f"{kind:8} x{count:<3} {'busy' if busy else 'alone':5}"
        f" {meter.exchanges / took:8.0f} exchanges/s {meter.messages / took:8.0f} messages/s"
        f"  p50 {p50:7.1f} ms  p95 {p95:7.1f} ms"
        f"  {statistics.mean(meter.batches):5.1f} calls a batch  {cpu_text} ms CPU a message",
        flush=True,
    )


async def main(args: argparse.Namespace) -> None:
    """All measurements asked for."""
    for busy in (False, True):
        for kind, count in (("done", 1), ("done", 10), ("pending", 1), ("pending", 10), ("down", 1), ("down", 10)):
            if not args.only or args.only == kind:
                await run(args, kind, count, busy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contacts", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--switch-interval", type=float, default=workers.SWITCH_INTERVAL)
    parser.add_argument("--burst", type=float, default=0.0003, help="seconds the busy thread takes at a time")
    parser.add_argument("--folder", default=None, help="where the database is made; on the disk to be measured")
    parser.add_argument("--only", choices=["done", "pending", "down"], default=None)
    options = parser.parse_args()
    sys.setswitchinterval(options.switch_interval)
    react(lambda _: Deferred.fromCoroutine(main(options)), [], reactor)
