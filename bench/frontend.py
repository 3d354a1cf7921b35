"""What the frontend costs by itself: CPU of a poll and of a stream's record, memory of an idle stream.

    .venv/bin/python bench/frontend.py [--polls 5000] [--records 3000] [--streams 2000] [--metrics]

A server process with the store in memory and one service that takes everything; clients with plain blocking sockets
in this process.  Reported: milliseconds of the server's CPU for each poll and record, and KiB of its resident memory
for each idle stream.  With --metrics everything is counted for Prometheus.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from fleetspeak import ids
from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import StoreError
from fleetspeak.pb import common
from fleetspeak.records import Exchange, Exchanged
from fleetspeak.security import certificates, keys
from fleetspeak.server.authorizers import AllowAll
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.contact.handler import ContactHandler
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.https.frontend import HttpsFrontend
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.server.services.noop import NoopService
from fleetspeak.server.stats import ServerStats
from fleetspeak.server.stats.collector import MetricsCollector
from fleetspeak.server.stats.store import MeasuredStore
from fleetspeak.store.memory import MemoryStore
from fleetspeak.wire import contact, streamframes

POLL = b"POST /message HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nContent-Length: %d\r\n\r\n%s"
STREAM = (
    b"POST /streaming-message HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def serve(folder: Path, metrics: bool) -> None:
    """The server process: says its port on standard output, then serves until it is killed."""
    stats = ServerStats([MetricsCollector(["bench"])] if metrics else [], reactor)
    authority, authority_key = certificates.make_authority("bench", time.time())
    certificate, key = certificates.issue_server(authority, authority_key, "bench", ["localhost"], time.time())
    (folder / "authority.pem").write_text(certificates.to_pem(authority))
    settings = ServerSettings(
        database_path=folder,
        https_address=("127.0.0.1", 0),
        certificate_chain=certificates.to_pem(certificate),
        key=certificates.key_to_pem(key),
    )
    forgetful = ForgetfulStore()
    forgetful.open()
    store = MeasuredStore(forgetful, stats) if metrics else forgetful
    manager = ServiceManager(reactor, stats=stats)
    manager.add("bench", NoopService())
    cache = ClientCache(store.client_data, reactor.seconds)
    contacts = ContactHandler(store, AllowAll(), manager, cache, Dispatcher(stats), stats=stats)
    frontend = HttpsFrontend(contacts, AllowAll(), settings, reactor, stats=stats)
    opening = Deferred.fromCoroutine(frontend.open())
    opening.addCallback(lambda address: print(address.port, flush=True))
    reactor.run()


class ForgetfulStore(MemoryStore):
    """Keeps no messages, which the store in memory would look through at every claim."""

    def exchange(self, exchanges: Sequence[Exchange]) -> Deferred[list[Exchanged | StoreError]]:
        return super().exchange([replace(exchange, messages=()) for exchange in exchanges])


class Bench:
    """Clients of one server process."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, __file__, "--serve", str(folder), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self._usage = psutil.Process(self._process.pid)
        self._folder = folder

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def memory(self) -> int:
        """Bytes of the server's resident memory."""
        return int(self._usage.memory_info().rss)

    def cpu_of(self, work: Callable[[], None]) -> float:
        """Seconds of the server's CPU while `work` is done."""
        before = sum(self._usage.cpu_times()[:2])
        work()
        return float(sum(self._usage.cpu_times()[:2]) - before)

    def connect(self) -> ssl.SSLSocket:
        """A connection of a new client."""
        key = keys.generate()
        client_id = ids.client_id_of_key(keys.public_der(key))
        pem = self._folder / "client.pem"
        certificate = certificates.client_certificate(key, client_id, time.time())
        pem.write_text(certificates.to_pem(certificate) + certificates.key_to_pem(key))
        tls = ssl.create_default_context(cafile=str(self._folder / "authority.pem"))
        tls.load_cert_chain(pem)
        plain = socket.create_connection(("127.0.0.1", self._port))
        return tls.wrap_socket(plain, server_hostname="localhost")

    def polls(self, count: int, messages: int) -> float:
        """CPU seconds of each poll of one client on one connection."""
        requests = [POLL % (len(body), body) for body in bodies(count, messages)]
        with self.connect() as connection:
            return self.cpu_of(lambda: ask_all(connection, requests)) / count

    def records(self, count: int, messages: int) -> float:
        """CPU seconds of each record of one stream, the next one sent when the last one is acknowledged."""
        records = [chunk(streamframes.encode(body)) for body in bodies(count, messages)]
        with self.connect() as connection:
            self.start(connection)
            return self.cpu_of(lambda: ask_all(connection, records)) / count

    def idle_streams(self, count: int) -> float:
        """Bytes of memory for each stream."""
        before = self.memory()
        connections = []
        for _ in range(count):
            connections.append(self.connect())
            self.start(connections[-1])
        taken = self.memory() - before
        for connection in connections:
            connection.close()
        return taken / count

    def start(self, connection: ssl.SSLSocket) -> None:
        first = contact.wrap(common.ContactData(AllowedMessages={"bench": 20, "system": 20}), ["linux"])
        connection.sendall(STREAM + chunk(streamframes.MAGIC + streamframes.encode(first)))
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200 "), answer


def bodies(count: int, messages: int) -> Iterator[bytes]:
    """Contacts with so many messages of 1 KiB."""
    for _ in range(count):
        data = common.ContactData()
        for _ in range(messages):
            message = data.messages.add(source_message_id=os.urandom(16), message_type="Bench")
            message.source.service_name = message.destination.service_name = "bench"
            message.data.value = bytes(1024)
        yield contact.wrap(data, ["linux"])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def ask_all(connection: ssl.SSLSocket, requests: list[bytes]) -> None:
    for request in requests:
        connection.sendall(request)
        if not connection.recv(4096):
            raise ConnectionError("the server closed the connection")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polls", type=int, default=5000)
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.metrics)
        return
    limit = options.streams * 2 + 1000  # which the server's process inherits
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), *(["--metrics"] if options.metrics else []))
        try:
            bench.polls(500, 0)
            for messages in (0, 1, 10):
                cost = bench.polls(options.polls, messages) * 1000
                print(f"poll with {messages} messages: {cost:.3f} ms CPU")
            for messages in (1, 10):
                cost = bench.records(options.records, messages) * 1000
                print(f"record with {messages} messages: {cost:.3f} ms CPU")
            print(f"idle stream, {options.streams} of them: {bench.idle_streams(options.streams) / 1024:.1f} KiB")
        finally:
            bench.close()


if __name__ == "__main__":
    main()
