"""A client whose server hangs, with services that talk and talk: its memory is bounded, and it ends when it is told."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path
from unittest import TestCase

import psutil

from fleetspeak.security.certificates import make_authority, to_pem
from tests.interop.fleet import OURS
from tests.programs import Program, eventually

MIB = 1024 * 1024

CHATTY = """
import sys, time
from google.protobuf.wrappers_pb2 import BytesValue
from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.src.common.proto.fleetspeak.common_pb2 import Message

connection = FleetspeakConnection(version="0.1")
number = 0
while True:
    message = Message(message_type="chatter", priority=number % 3)
    message.destination.service_name = "nobody"
    message.data.Pack(BytesValue(value=bytes(200_000)))
    connection.Send(message)
    number += 1
    print(number, flush=True)
"""

STUBBORN = """
import os, signal, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.write(4, bytes.fromhex("0110eef1"))
while True:
    time.sleep(600)
"""

MOST = 100 * MIB
"""What the client may have beyond what it starts with: the outbox's three queues of 20 MiB, what is under way of them,
and what was read of the daemon's pipe."""


class OfflineTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "ca.pem").write_text(to_pem(make_authority("CA", time.time())[0]))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.server.close)

    def start(self, *options: str, **scripts: str) -> Program:
        services = self.folder / "etc" / "textservices"
        services.mkdir(parents=True, exist_ok=True)
        for name, script in scripts.items():
            path = self.folder / f"{name}.py"
            path.write_text(script)
            (services / name).write_text(
                f'name: "{name}" factory: "Daemon" config {{ [type.googleapis.com/fleetspeak.daemonservice.Config] {{'
                f' argv: "{OURS.python()}" argv: "{path}" disable_resource_monitoring: true }} }}'
            )
        client = Program(
            "client",
            [
                OURS.program("fleetspeak-client"),
                f"--trusted-cert-file={self.folder}/ca.pem",
                f"--server=localhost:{self.server.getsockname()[1]}",
                f"--config-path={self.folder}/etc",
                f"--profile-dir={self.folder}",
                "--std_forward",
                *options,
            ],
            folder=self.folder,
        )
        self.addCleanup(client.make_sure_it_ended)
        client.wait_for_line("client .* started with")
        return client

    def await_full(self, client: Program) -> None:
        """Until the chatty daemon is held up."""
        seen = [-1, 0]

        def is_held_up() -> bool:
            told = client.lines_matching(r"^\d+$")
            if not told or int(told[-1]) != seen[0]:
                seen[:] = [int(told[-1]) if told else -1, time.monotonic()]
            return time.monotonic() - seen[1] > 1.5

        eventually(is_held_up, "the daemon is held up", 60)

    def assert_stops(self, client: Program) -> None:
        began = time.monotonic()
        children = psutil.Process(client.pid).children(recursive=True)
        self.assertEqual(client.terminate(), 0)
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual([child for child in children if child.is_running()], [])
        self.assertEqual(client.lines_matching(r"^F\d{4} |Unhandled|did not stop"), [])
        self.assertEqual(list(self.folder.glob("fleetspeakd-*")), [], "nothing was overdue")

    def test_in_memory(self) -> None:
        self.run_into_the_limit("--no-spool")

    def test_with_a_spool(self) -> None:
        """Which holds more than the memory may."""
        self.run_into_the_limit("--spool-limit=128MiB")
        self.assertGreater(sum(file.stat().st_size for file in self.folder.rglob("*.spool/*")), MOST)

    def run_into_the_limit(self, *options: str) -> None:
        """Memory is bounded, and SIGTERM ends it although all is full and a daemon ignores everything."""
        client = self.start(*options, chatty=CHATTY, stubborn=STUBBORN)
        process = psutil.Process(client.pid)
        before = process.memory_info().rss
        self.await_full(client)
        self.assertLess(process.memory_info().rss - before, MOST)
        self.assert_stops(client)
