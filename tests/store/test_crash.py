"""What a store keeps when its process does not get to close it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.ids import MessageId
from tests.store.children import MESSAGES, messages_of
from tests.store.doubles import ToldStore

ROOT = Path(__file__).parents[2]


def child(program: str, path: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.children", program, os.path.abspath(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


class CrashTests(SynchronousTestCase):
    def open(self, path: str) -> ToldStore:
        store = ToldStore(path)
        self.successResultOf(store.open())
        self.addCleanup(store.close)
        return store

    def test_kill_9_loses_nothing_that_was_confirmed(self) -> None:
        """Robustness: the writing process is killed in the middle; what it had confirmed is there, and all of it."""
        path = self.mktemp()
        for lines in (30, 200):
            with child("write", path) as process:
                assert process.stdout is not None
                confirmed = {int(process.stdout.readline()) for _ in range(lines)}
                process.kill()
                confirmed.update(int(line) for line in process.stdout if line.endswith("\n"))
            self.assertEqual(process.returncode, -9)
            store = self.open(path)
            reads = []
            for number in sorted(confirmed):
                message_ids = [MessageId(message.message_id) for message in messages_of(number)]
                reads.append((number, store.get_messages(message_ids, want_data=True)))
            store.perform()
            for number, read in reads:
                self.assertEqual(self.successResultOf(read), messages_of(number))
            [(stored,)] = store.look("SELECT COUNT(*) FROM messages")
            [(linked,)] = store.look("SELECT COUNT(*) FROM client_contact_messages")
            [(contacts,)] = store.look("SELECT COUNT(*) FROM client_contacts")
            self.assertEqual(
                (stored, linked), (contacts * MESSAGES, contacts * MESSAGES), "an exchange is all or nothing"
            )
            self.assertGreaterEqual(contacts, len(confirmed))
            self.assertEqual(store.look("PRAGMA integrity_check"), [("ok",)])
            self.successResultOf(store.close())
            path = self.mktemp()

    def test_a_disk_that_is_full(self) -> None:
        """Robustness: with no room left callers fail with a clear text; when there is room again, it goes on."""
        path = self.mktemp()
        with child("full", path) as process:
            output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)
        stored, text, in_the_end = output.splitlines()
        self.assertGreater(int(stored), 2)
        self.assertIn(path, text)
        self.assertIn("nothing was stored", text)
        self.assertEqual(self.open(path).look("SELECT COUNT(*) FROM pending_messages"), [(int(in_the_end),)])
