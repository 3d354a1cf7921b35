"""What can go wrong on a machine of the fleet (issue 2, robustness): our client and our server, as processes."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from unittest import TestCase

import grpc
import psutil
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from fleetspeak import rpc
from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from tests.interop.fleet import OURS, POLLING, SCRIPTS, STREAMING, Client, Fleet, greeter, hello
from tests.programs import NotInTime, Program, eventually

NUMBERS = 1000
SEED = 4711

QUICK_DAEMON = '''
"""A Daemon that is started again after half a second instead of a minute: a plug-in as anybody can write one."""
from fleetspeak.client.services.daemon import DaemonFactory, Limits

class QuickDaemonFactory(DaemonFactory):
    name = "QuickDaemon"

quick = QuickDaemonFactory(Limits(respawn_delay=0.5))
'''


class ClientInTrouble(TestCase):
    def setUp(self) -> None:
        self.fleet = Fleet(OURS, (OURS,))
        self.addCleanup(self.fleet.clean_up)
        self.fleet.start_operators()
        self.server = self.fleet.server(OURS)
        self.server.start()

    def test_kill_9_of_a_daemon_loses_nothing(self) -> None:
        """It is killed five times while it works; every message is processed at least once."""
        client = self.fleet.client(OURS, "machine", STREAMING)
        notes = client.folder / "notes"
        self.add_service(client, "diligent", SCRIPTS / "diligent.py", notes)
        self.start(client)
        client.stop()
        for number in range(NUMBERS):
            self.fleet.operator.send(greeter(OURS), client.client_id, "diligent", Int64Value(value=number))
        self.start(client)
        for moment in sorted(random.Random(SEED).sample(range(NUMBERS), 5)):
            self.await_notes(notes, moment)
            os.kill(self.daemon(client, "diligent.py").pid, signal.SIGKILL)
        self.await_notes(notes, NUMBERS)
        eventually(lambda: self.fleet.operator.pending([client.client_id]) == 0, "all are confirmed")
        self.assertTrue(client.program.running)

    def test_garbage_on_the_daemon_pipe(self) -> None:
        """The daemon is ended, one line says why, and the client's other services go on."""
        client = self.fleet.client(OURS, "machine", POLLING)
        for name, garbage in (("magic", b"\1\2\3\4"), ("length", b"\1\x10\xee\xf1\xff\xff\xff\xff")):
            script = client.folder / f"{name}.py"
            script.write_text(f"import os, time\nos.write(4, {garbage!r})\ntime.sleep(600)\n")
            self.add_service(client, name, script)
        program = self.start(client)
        for name in ("magic", "length"):
            program.wait_for_line(f"service {name}: .* does not keep to the protocol: read unexpected")
        self.assert_fine(client)

    def test_a_state_file_that_becomes_unwritable(self) -> None:
        """A new key that cannot be stored is not taken; one line names the file, and the client goes on as it was."""
        client = self.fleet.client(OURS, "machine", STREAMING)
        program = self.start(client)
        before = client.client_id
        hidden = client.folder.with_name("hidden")
        client.folder.rename(hidden)
        client.folder.write_text("a file in the place of the folder")
        self.rekey(client, before)
        program.wait_for_line(f"RekeyRequest.* failed: .*{client.folder / 'state'}")
        client.folder.unlink()
        hidden.rename(client.folder)
        self.assertEqual(client.client_id, before)
        self.assert_fine(client)
        self.rekey(client, before)
        eventually(lambda: client.client_id != before, "the new key is stored")
        self.assert_fine(client)

    def test_a_state_file_that_cannot_be_written_at_start(self) -> None:
        """A client that cannot keep its identity does not start, and says which file it is."""
        client = self.fleet.client(OURS, "machine", STREAMING)
        state = client.folder / "state"
        state.mkdir()
        program = client.start()
        self.assertEqual(program.wait(), 1)
        self.assertTrue(program.lines_matching(str(state)))
        self.assertEqual(program.lines_matching("Traceback"), [])

    def test_sigterm_of_everything(self) -> None:
        """Server, clients and their daemons end by themselves within seconds, with status 0."""
        clients = [self.fleet.client(OURS, f"machine-{n}", (POLLING, STREAMING)[n % 2]) for n in range(4)]
        programs = [self.start(client) for client in clients]
        daemons = [child for program in programs for child in psutil.Process(program.pid).children(recursive=True)]
        self.assertGreaterEqual(len(daemons), len(clients))
        everything = [*programs, self.server.program]
        for program in everything:
            os.kill(program.pid, signal.SIGTERM)
        self.assertEqual([program.wait(15) for program in everything], [0] * len(everything))
        self.assertEqual([daemon for daemon in daemons if daemon.is_running()], [])
        for program in everything:
            self.assertEqual(program.lines_matching("Traceback|Unhandled"), [])

    # -- how

    def start(self, client: Client) -> Program:
        """Start it, with our plug-in at hand, and wait until it has been greeted."""
        plugins = client.folder / "python" / "fleetspeak" / "plugins"
        plugins.mkdir(parents=True, exist_ok=True)
        (plugins / "quick.py").write_text(QUICK_DAEMON)
        program = client.start({"PYTHONPATH": str(client.folder / "python")})
        self.assert_fine(client)
        return program

    def assert_fine(self, client: Client) -> None:
        """It answers a greeting, and shows no traceback."""
        client_id = client.client_id
        operator = self.fleet.operator
        eventually(lambda: operator.clients([client_id]), f"{client.name} enrols")
        operator.send(greeter(OURS), client_id, hello(OURS), StringValue(value=client_id.hex()))
        operator.wait_for_text(f"Hello {client_id.hex()}!")
        self.assertEqual(client.program.lines_matching("Traceback|Unhandled"), [])

    def add_service(self, client: Client, name: str, script: Path, *arguments: Path) -> None:
        argv = " ".join(f'argv: "{argument}"' for argument in (OURS.python(), script, *arguments))
        (client.folder / "etc" / "textservices" / name).write_text(
            f'name: "{name}" factory: "QuickDaemon"'
            f" config {{ [type.googleapis.com/fleetspeak.daemonservice.Config] {{ {argv} }} }}"
        )

    def daemon(self, client: Client, script: str) -> psutil.Process:
        """The process of that daemon; a new one if it was killed a moment ago."""

        def find() -> psutil.Process | None:
            for child in psutil.Process(client.program.pid).children(recursive=True):
                if child.status() != psutil.STATUS_ZOMBIE and any(script in part for part in child.cmdline()):
                    return child
            return None

        return eventually(find, f"{script} runs")

    def noted(self, notes: Path) -> set[bytes]:
        return set(notes.read_bytes().split(b"\n")[:-1]) if notes.exists() else set()

    def await_notes(self, notes: Path, count: int) -> None:
        try:
            eventually(lambda: len(self.noted(notes)) >= count, f"{count} messages are processed")
        except NotInTime as late:
            raise NotInTime(f"{late}: {len(self.noted(notes))}") from None

    def rekey(self, client: Client, client_id: ClientId) -> None:
        """Ask it for a new key, which it wants to store at once."""
        message = common.Message(message_type="RekeyRequest")
        message.source.service_name = message.destination.service_name = "system"
        message.destination.client_id = client_id
        with grpc.insecure_channel(self.fleet.deployment.admin_address) as channel:
            rpc.admin.AdminStub(channel).InsertMessage(message, timeout=10)
