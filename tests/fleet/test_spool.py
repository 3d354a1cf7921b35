"""The client is killed while a daemon sends numbers: what Send has returned for arrives (issue 3, point 6)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from unittest import TestCase

from fleetspeak import ids
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.core.spool import LARGEST_SEGMENT, SpoolLedger
from fleetspeak.pb import client as client_pb
from fleetspeak.security import keys
from tests.programs import Program, eventually

from .server import SmallServer

NOOP = 'services { name: "numbers" factory: "NOOP" max_parallelism: 10000 }'
TWISTD = Path(sys.executable).parent / "twistd"
SEED = 20261
PIPE = 64 * 1024

DAEMON = '''
"""Sends numbers; notes each before it is sent, and again when Send has returned."""
import os, sys, threading
from fleetspeak.client_connector.connector import FleetspeakConnection
from fleetspeak.pb import common

folder, threads, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if "--old" in sys.argv:  # as upstream's connector, which knows no acks
    os.environ.pop("FLEETSPEAK_COMMS_CHANNEL_ACKFD", None)
else:
    assert "FLEETSPEAK_COMMS_CHANNEL_ACKFD" in os.environ
tried = os.open(f"{folder}/tried", os.O_RDWR | os.O_CREAT | os.O_APPEND)
returned = os.open(f"{folder}/returned", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
LINE = 17
lock = threading.Lock()
number = os.fstat(tried).st_size // LINE

def next_number():
    global number
    with lock:
        number += 1
        os.write(tried, b"%016d\\n" % number)
        return number

connection = FleetspeakConnection("1.0")

def send():
    while True:
        mine = next_number()
        message = common.Message(
            source_message_id=b"%016d" % mine,
            priority=mine % 3,
            destination=common.Address(service_name="numbers"),
        )
        if "--old" in sys.argv:
            message.priority = common.Message.MEDIUM
        message.data.value = bytes(size)
        connection.Send(message)
        os.write(returned, b"%016d\\n" % mine)

def send_until_broken():
    try:
        send()
    except OSError:
        os._exit(0)

workers = [threading.Thread(target=send_until_broken) for _ in range(threads)]
for worker in workers:
    worker.start()
'''


class KilledClient(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "server").mkdir()
        self.server = SmallServer(self.folder / "server", NOOP)
        self.addCleanup(self.server.clean_up)
        self.server.start()
        self.machine = self.folder / "machine"
        (self.machine / "textservices").mkdir(parents=True, mode=0o700)
        self.machine.chmod(0o700)
        (self.machine / "communicator.txt").write_text("min_failure_delay_seconds: 1")
        (self.folder / "daemon.py").write_text(DAEMON)
        self.random = random.Random(SEED)

    def install(self, *arguments: str) -> None:
        argv = [sys.executable, str(self.folder / "daemon.py"), str(self.folder), *arguments]
        config = " ".join(f'argv: "{argument}"' for argument in argv)
        (self.machine / "textservices" / "numbers").write_text(
            'name: "numbers" factory: "Daemon"\n'
            f"config {{ [type.googleapis.com/fleetspeak.daemonservice.Config] {{ {config} }} }}\n"
        )

    def start(self) -> Program:
        arguments = [
            f"--trusted-cert-file={self.server.folder / 'fleetspeak-ca.pem'}",
            f"--server=localhost:{self.server.https_port}",
            f"--config-path={self.machine}",
        ]
        program = Program("client", [TWISTD, "-n", "--pidfile=", "fleetspeak-client", *arguments], folder=self.folder)
        self.addCleanup(program.make_sure_it_ended)
        program.wait_for_line("client .* started with 1 services")
        return program

    def returned(self) -> list[bytes]:
        """The numbers for which Send has returned."""
        path = self.folder / "returned"
        return path.read_bytes().split() if path.exists() else []

    def await_more(self, count: int) -> None:
        due = len(self.returned()) + count
        eventually(lambda: len(self.returned()) >= due, f"{count} more numbers are sent")

    def message_id(self, number: bytes) -> bytes:
        state = client_pb.ClientState.FromString((self.machine / "state").read_bytes())
        client_id = ids.client_id_of_key(keys.public_der(keys.load_sec1(state.client_key)))
        return ids.message_id_of(client_id, "numbers", number)

    def stored(self) -> list[bytes]:
        return [row[0] for row in self.server.query("SELECT message_id FROM messages")]  # type: ignore[misc]

    def missing(self) -> list[bytes]:
        """Numbers for which Send has returned, and that the server does not have."""
        stored = set(self.stored())
        return [number for number in self.returned() if self.message_id(number) not in stored]

    def kill(self, program: Program) -> None:
        os.kill(program.pid, signal.SIGKILL)
        program.wait()

    def test_every_number_for_which_send_returned_arrives_once(self) -> None:
        """Ten kills at random moments, some while the server is away, some while it is there."""
        self.install("4", "300")
        for round in range(10):
            program = self.start()
            self.assertEqual([], program.lines_matching("damaged|cannot"), "a kill does no damage")
            if round == 2:
                self.server.stop()
            self.await_more(self.random.randint(1, 400))
            if round == 6:
                self.server.start()
            self.kill(program)
        (self.machine / "textservices" / "numbers").unlink()
        self.install_nothing()
        eventually(lambda: not self.missing(), "every number for which Send returned has arrived", 60)
        self.assertGreater(len(self.returned()), 200)
        self.assertEqual(len(self.stored()), len(set(self.stored())), "each is stored once")

    def install_nothing(self) -> None:
        """The last start: only what is in the spool is sent."""
        (self.machine / "textservices" / "nothing").write_text('name: "nothing" factory: "NOOP"')
        self.start()

    def test_with_upstreams_connector_no_more_than_a_pipe_is_lost_at_a_kill(self) -> None:
        size = 1000
        self.install("1", str(size), "--old")
        kills = 5
        lost: list[int] = []
        for _ in range(kills):
            before = len(self.returned())
            program = self.start()
            self.await_more(self.random.randint(100, 1500))
            self.kill(program)
            eventually(lambda: self.daemon_is_gone(), "the daemon sees that its client is gone")
            lost.append(before)
        (self.machine / "textservices" / "numbers").unlink()
        self.install_nothing()
        last = self.returned()
        eventually(lambda: not self.spooled(), "what is in the spool has arrived", 60)
        missing = {int(number) for number in self.missing()}
        ends = [int(number) for number in last]
        for begin, end in zip(lost, [*lost[1:], len(ends)], strict=True):
            of_this_kill = [number for number in ends[begin:end] if number in missing]
            self.assertLessEqual(len(of_this_kill) * (size + 8), PIPE)

    def spooled(self) -> int:
        """How many messages are in the spool, as another client would find it."""
        with tempfile.TemporaryDirectory() as name:
            copy = Path(name) / "spool"
            shutil.copytree(self.machine / "state.spool", copy)
            found, _ = SpoolFolder(copy, LARGEST_SEGMENT).open()
            ledger = SpoolLedger(1 << 30)
            for priority, lane in found.items():
                ledger.recover(priority, lane.segments, lane.last, lane.acks)
            return sum(ledger.count(priority) for priority in found)

    def daemon_is_gone(self) -> bool:
        script = str(self.folder / "daemon.py").encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    if script in (entry / "cmdline").read_bytes():
                        return False
                except OSError:
                    continue
        return True
