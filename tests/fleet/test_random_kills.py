"""kill -9 of client, daemons and server in random order, under load; nothing that a Send returned for is lost.

`make soak` runs it for five minutes, the tests for as long as a few kills of each take.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from unittest import TestCase

import psutil

from tests.interop.peer import our_program
from tests.programs import Program, eventually

from .server import SmallServer

SERVICES = [f"numbers-{number:02}" for number in range(20)]
SECONDS = float(os.environ.get("SOAK_SECONDS", "25"))
PACE = 0.05
"""Seconds between two messages of a service."""

SEED = 20261128
MOST_MEMORY = 160 * 1024 * 1024
"""Bytes that the client may ever be resident with; it has about 60 MiB when it is idle."""

NOOP = 'services { name: "numbers" factory: "NOOP" max_parallelism: 1000 }'

DAEMON = '''
"""Sends 1, 2, 3 ..., each under an id made of it, and notes those that Send returned for.  Goes on where it was."""
import hashlib, os, pathlib, sys, time
from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.pb import common

service, folder = sys.argv[1], pathlib.Path(sys.argv[2])
notes = os.open(folder / service, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
number = os.fstat(notes).st_size // 9
connection = FleetspeakConnection()
while not (folder / "enough").exists():
    number += 1
    message = common.Message(message_type=str(number), destination=common.Address(service_name="numbers"))
    message.source_message_id = hashlib.sha256(f"{service} {number}".encode()).digest()[:16]
    connection.Send(message)
    os.write(notes, b"%08d\\n" % number)
    time.sleep(PACE)
connection.Recv()
'''.replace("PACE", str(PACE))


class RandomKills(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.random = random.Random(SEED)
        self.killed: dict[str, int] = defaultdict(int)
        self.most_memory = 0
        self.server = SmallServer(self.folder, NOOP)
        self.addCleanup(self.server.clean_up)
        self.server.start()
        self.notes = self.folder / "notes"
        self.notes.mkdir()
        self.write_services()
        self.client = self.start_client()
        self.addCleanup(lambda: self.client.make_sure_it_ended())

    def test_every_number_arrives_in_the_store_exactly_once(self) -> None:
        deadline = time.monotonic() + SECONDS
        rounds = self.victims()
        while time.monotonic() < deadline or len(self.killed) < 3:
            next(rounds)()
            self.await_numbers(self.random.randint(50, 500))
            self.look_at_memory()
        (self.notes / "enough").touch()
        eventually(lambda: set(self.stored()) == set(SERVICES), "every service has sent something", 60)
        eventually(lambda: self.missing() == 0, "every number that Send returned for is in the store", 120)
        for service, numbers in self.stored().items():
            noted = self.noted(service)
            # At most one more: sent, and killed before it could note that.
            self.assertIn(sorted(numbers), [list(range(1, noted + 1)), list(range(1, noted + 2))], service)
        print(f"killed: {dict(self.killed)}; {self.total()} messages; at most {self.most_memory >> 20} MiB")
        self.assertLess(self.most_memory, MOST_MEMORY)
        self.assertEqual(self.client.lines_matching("Traceback|Unhandled"), [])

    # -- what happens

    def victims(self) -> Iterator[object]:
        """Each of them once in a random order, then whoever chance picks; daemons most often."""
        kinds = [self.kill_client, self.kill_daemons, self.kill_server]
        yield from self.random.sample(kinds, len(kinds))
        while True:
            yield self.random.choices(kinds, weights=[2, 5, 2])[0]

    def kill_client(self) -> None:
        self.killed["client"] += 1
        self.client.kill()
        self.client = self.start_client()

    def kill_daemons(self) -> None:
        """Some of them at a time."""
        running = psutil.Process(self.client.pid).children()
        for daemon in self.random.sample(running, min(len(running), self.random.randint(1, 5))):
            self.killed["daemon"] += 1
            os.kill(daemon.pid, signal.SIGKILL)

    def kill_server(self) -> None:
        """It stays away for a while, during which the services go on."""
        self.killed["server"] += 1
        self.server.program.kill()
        self.await_numbers(self.random.randint(0, 1000))
        self.server.start()

    # -- how

    def write_services(self) -> None:
        etc = self.folder / "fleetspeak-client"
        (etc / "textservices").mkdir(parents=True, mode=0o700)
        (etc / "communicator.txt").write_text("min_failure_delay_seconds: 1")
        program = self.folder / "daemon.py"
        program.write_text(DAEMON)
        for service in SERVICES:
            argv = "".join(f' argv: "{word}"' for word in (sys.executable, program, service, self.notes))
            (etc / "textservices" / service).write_text(
                f'name: "{service}" factory: "Daemon"'
                f" config {{ [type.googleapis.com/fleetspeak.daemonservice.Config] {{ {argv} }} }}"
            )

    def start_client(self) -> Program:
        arguments = [
            f"--trusted-cert-file={self.folder / 'fleetspeak-ca.pem'}",
            f"--server=localhost:{self.server.https_port}",
            f"--config-path={self.folder / 'fleetspeak-client'}",
        ]
        return Program("client", [our_program("fleetspeak-client"), *arguments], folder=self.folder)

    def noted(self, service: str) -> int:
        path = self.notes / service
        return path.stat().st_size // 9 if path.exists() else 0

    def total(self) -> int:
        return sum(map(self.noted, SERVICES))

    def await_numbers(self, more: int) -> None:
        before = self.total()
        eventually(lambda: self.total() >= before + more, f"the services send {more} more numbers", 120)

    def stored(self) -> dict[str, list[int]]:
        """The numbers in the store by service; one that were there twice would be seen twice."""
        numbers: dict[str, list[int]] = defaultdict(list)
        found = self.server.query(
            "SELECT source_service_name, message_type FROM messages WHERE destination_service_name = 'numbers'"
        )
        for service, number in found:
            numbers[str(service)].append(int(str(number)))
        return numbers

    def missing(self) -> int:
        """How many noted numbers are not in the store."""
        stored = self.stored()
        return sum(len(set(range(1, self.noted(service) + 1)) - set(stored[service])) for service in SERVICES)

    def look_at_memory(self) -> None:
        resident = psutil.Process(self.client.pid).memory_info().rss
        self.most_memory = max(self.most_memory, resident)
