"""The figures of a whole server (and a client) as they are run: one process, SQLite with synchronous=FULL, mutual TLS.

    .venv/bin/python bench/figures.py [--seconds 10] [--clients 64] [WHAT ...]

WHAT: poll-1 poll-10 stream-1 stream-10 (1 KiB messages, so many per contact), latency (operator to daemon over an
idle stream), memory (of 2,000 idle streams), start (of server and client).  All of them by default, about two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
from google.protobuf.wrappers_pb2 import Int64Value

from fleetspeak import ids, rpc
from fleetspeak.pb import client as client_state
from fleetspeak.pb import common
from fleetspeak.security import keys
from fleetspeak.testing.wireclient import Connection, Identity, Stream

HERE = Path(__file__).resolve().parent
TWISTD = Path(sys.executable).parent / "twistd"
STREAMS = 2_000
DELIVERIES = 200
STARTS = 5

SERVICES = 'services { name: "bench" factory: "NOOP" max_parallelism: 100000 }'

DAEMON = """
import sys, time
from fleetspeak.client_connector.connector import FleetspeakConnection
from google.protobuf.wrappers_pb2 import Int64Value
connection = FleetspeakConnection()
with open(sys.argv[1], "w", buffering=1) as times:
    while True:
        message, _ = connection.Recv()
        sent = Int64Value()
        message.data.Unpack(sent)
        print((time.time_ns() - sent.value) / 1e6, file=times)
"""


class Server:
    """Our server in a folder; it makes its own certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.https_port, self.admin_port = free_port(), free_port()
        self.authority = folder / "fleetspeak-ca.pem"
        (folder / "services.textproto").write_text(SERVICES)

    @contextmanager
    def running(self) -> Iterator[psutil.Process]:
        """The server process, which serves."""
        arguments = [
            f"--https-addr=127.0.0.1:{self.https_port}",
            f"--admin-addr=127.0.0.1:{self.admin_port}",
            f"--database-path={self.folder / 'fleetspeak.sqlite'}",
            "--services-config=services.textproto",
        ]
        with running_program(self.folder, "Fleetspeak server started", "fleetspeak-server", *arguments) as process:
            yield process

    def connect(self, identity: Identity) -> Connection:
        return Connection(("localhost", self.https_port), self.authority.read_text(), identity)


def load(mode: str, messages: int, clients: int, seconds: float) -> None:
    """Messages per second and what one costs."""
    with new_server() as server, server.running() as process:
        argv = ["load.py", mode, "localhost", server.https_port, server.authority, clients, messages, 1024, seconds]
        with subprocess.Popen([sys.executable, *map(str, argv)], cwd=HERE, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "begin\n"
            before = cpu_seconds(process)
            assert driver.stdout.readline() == "end\n"
            cpu = cpu_seconds(process) - before
            result = json.loads(driver.stdout.read())
        count = result["contacts"] * messages
        print(
            f"{mode}-{messages}: {count / seconds:.0f} messages/s, {cpu * 1000 / count:.3f} ms of CPU each, "
            f"{cpu / seconds:.2f} cores; contact p50 {result['p50']:.1f} p95 {result['p95']:.1f} p99 "
            f"{result['p99']:.1f} ms; {clients} clients, which took {result['cpu'] / seconds:.2f} cores"
        )


def latency() -> None:
    """From the operator's InsertMessage to the daemon that has the message, one at a time."""
    with new_server() as server, server.running():
        times = server.folder / "times"
        client_id = write_client(server, times)
        with _client(server), grpc.insecure_channel(f"127.0.0.1:{server.admin_port}") as channel:
            stub = rpc.admin.AdminStub(channel)
            wait_for(lambda: times.exists())
            for number in range(DELIVERIES):
                message = common.Message()
                message.source.service_name = "bench"
                message.destination.service_name = "clock"
                message.destination.client_id = client_id()
                message.data.Pack(Int64Value(value=time.time_ns()))
                stub.InsertMessage(message)
                wait_for(lambda: times.read_bytes().count(b"\n") > number)  # noqa: B023
                time.sleep(0.02)
        taken = [float(line) for line in times.read_text().split()]
    quantiles = statistics.quantiles(taken, n=100)
    print(f"latency: operator to daemon p50 {quantiles[49]:.1f} ms, p95 {quantiles[94]:.1f} ms, {len(taken)} messages")


def memory() -> None:
    """What an idle stream takes in the server."""
    with new_server() as server, server.running() as process:
        with Stream(server.connect(Identity.make()), common.ContactData()):
            before = process.memory_info().rss
        streams = [Stream(server.connect(Identity.make()), common.ContactData()) for _ in range(STREAMS)]
        each = (process.memory_info().rss - before) / STREAMS / 1024
        print(f"memory: {each:.1f} KiB per idle stream, {STREAMS} streams")
        for stream in streams:
            stream.close()


def start() -> None:
    """From the command to serving, and from the command to the first contact."""
    servers, clients = [], []
    for _ in range(STARTS):
        with new_server() as server:
            began = time.perf_counter()
            with server.running():
                servers.append(time.perf_counter() - began)
                write_client(server, server.folder / "times")
                began = time.perf_counter()
                with _client(server):
                    clients.append(time.perf_counter() - began)
    print(
        f"start: server {statistics.median(servers):.2f} s until it serves (its first start), "
        f"client {statistics.median(clients):.2f} s until its first contact"
    )


@contextmanager
def new_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        yield Server(Path(folder))


def write_client(server: Server, times: Path, name: str = "client"):  # type: ignore[no-untyped-def]
    """Configure a streaming client with a daemon that notes when it got what; returns how to learn its id."""
    folder = server.folder / name
    services = folder / "etc" / "textservices"
    services.mkdir(parents=True)
    (folder / "clock.py").write_text(DAEMON)
    argv = "".join(f' argv: "{word}"' for word in (sys.executable, folder / "clock.py", times))
    (services / "clock").write_text(
        'name: "clock" factory: "Daemon"'
        f" config {{ [type.googleapis.com/fleetspeak.daemonservice.Config] {{ {argv} }} }}"
    )
    (folder / "client.textproto").write_text(
        f"trusted_certs: {json.dumps(server.authority.read_text())}"
        f' server: "localhost:{server.https_port}" streaming: true'
        f' filesystem_handler {{ configuration_directory: "{folder / "etc"}"'
        f' state_file: "{folder / "state"}" }}'
    )

    def client_id() -> ids.ClientId:
        state = client_state.ClientState.FromString((folder / "state").read_bytes())
        return ids.client_id_of_key(keys.public_der(keys.load_sec1(state.client_key)))

    return client_id


@contextmanager
def _client(server: Server) -> Iterator[psutil.Process]:
    configuration = f"--config={server.folder / 'client' / 'client.textproto'}"
    with running_program(server.folder, "contact with .* established", "fleetspeak-client", configuration) as process:
        yield process


@contextmanager
def running_program(folder: Path, ready: str, *arguments: str) -> Iterator[psutil.Process]:
    """Run twistd with these arguments, from when a line like `ready` is logged."""
    log = folder / f"{arguments[0]}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [TWISTD, "-n", "--pidfile=", *arguments], cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        tail = subprocess.Popen(
            ["timeout", "30", "sh", "-c", f"tail -n +1 -f {log} | grep -q -m1 '{ready}'"], start_new_session=True
        )
        assert tail.wait() == 0, log.read_text()
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(true) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    everything = {
        **{
            f"{mode}-{count}": lambda mode=mode, count=count: load(mode, count, options.clients, options.seconds)
            for mode in ("poll", "stream")
            for count in (1, 10)
        },
        "latency": latency,
        "memory": memory,
        "start": start,
    }
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.environ["PYTHONUNBUFFERED"] = "1"
    for name in options.what or everything:
        everything[name]()


if __name__ == "__main__":
    main()
