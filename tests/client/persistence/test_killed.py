"""A client that is killed right after a rekey, or after its stop, comes back as who it was last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import TestCase

PROGRAM = """
import os, signal, sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from fleetspeak.client.assembly import in_thread_of
from fleetspeak.client.persistence.filesystem import FilePersistence
from fleetspeak.client.state import StateKeeper

keeper = StateKeeper(FilePersistence(Path(sys.argv[1])), reactor, in_thread_of(reactor))

def tell_and_die(*_):
    print(keeper.identity.client_id.hex(), keeper.nonce, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

async def run():
    keeper.open()
    print(keeper.identity.client_id.hex(), keeper.nonce, flush=True)
    if sys.argv[2] == "rekey":
        keeper.on_rekey(tell_and_die)
        await keeper.rekey()
    elif sys.argv[2] == "stop":
        keeper.nonce = 42
        await keeper.close()
        tell_and_die()
    os.kill(os.getpid(), signal.SIGKILL)

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()))
reactor.run()
"""


class KilledTests(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.state = Path(folder.name) / "state"

    def run_and_kill(self, action: str) -> list[str]:
        """Identity and nonce at the start, and again when it is killed."""
        ran = subprocess.run([sys.executable, "-c", PROGRAM, self.state, action], capture_output=True, text=True)
        self.assertEqual((ran.returncode, ran.stderr), (-9, ""))
        return ran.stdout.splitlines()

    def test_item_17_a_kill_right_after_the_rekey_keeps_the_new_identity(self) -> None:
        before, after = self.run_and_kill("rekey")
        self.assertNotEqual(before, after)
        self.assertEqual(self.run_and_kill("nothing"), [after])
        self.state.write_bytes(b"\xff")
        self.assertEqual(self.run_and_kill("nothing"), [after], "and so does the backup")

    def test_item_17_a_kill_right_after_the_stop_keeps_what_was_last(self) -> None:
        before, after = self.run_and_kill("stop")
        self.assertEqual(after, before.replace(" 0", " 42"))
        self.assertEqual(self.run_and_kill("nothing"), [after])
