"""A message that kills its server, again and again, is given up like any other (server-core.md 3.5 [improve])."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.core.retrytimes import DEAD
from fleetspeak.testing.storecontract.base import from_client, message_id
from tests.store.doubles import ToldStore

TOP = Path(__file__).resolve().parents[3]
HOUR = 3600


class PoisonTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.now = 1000 * HOUR

    def with_store(self, ask: str, *arguments: object) -> object:
        """What a store on the database gives."""
        store = ToldStore(self.path, now_ns=lambda: self.now * 10**9, uniform=lambda: 0.0)
        self.successResultOf(store.open())
        call = getattr(store, ask)(*arguments)
        store.perform()
        self.successResultOf(store.close())
        return self.successResultOf(call)

    def run_server(self) -> tuple[int, str]:
        """Let a server run until it is killed, or has nothing to do.  Gives how it ended, and what it said."""
        command = [sys.executable, "-m", "tests.server.services.poisoned", self.path, str(self.now)]
        ended = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
        return ended.returncode, ended.stdout

    def test_each_death_counts_as_an_attempt(self) -> None:
        """What is claimed is put off, and counted, before a service sees it."""
        self.with_store("store_messages", [from_client(1)])
        for _ in range(2):
            self.now += HOUR
            self.assertEqual(self.run_server(), (-signal.SIGKILL, "processing\n"))
        self.assertEqual(self.run_server(), (0, "survived\n"), "it is not due before its time")
        self.now += HOUR
        self.assertEqual(self.run_server(), (0, "survived\n"))
        results = self.with_store("message_results", [message_id(1)])
        assert isinstance(results, dict)
        self.assertTrue(results[message_id(1)].failed_reason.startswith(f"{DEAD}given up after 3 attempts"))
        self.assertEqual(self.with_store("retry_messages", [message_id(1)]), 1)
        self.assertEqual(self.run_server(), (-signal.SIGKILL, "processing\n"), "on request, and with its payload")
