"""What is done at the end of a process, however it ends."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

HEAD = """
import os, threading
from fleetspeak.program.lastacts import at_the_end, exit_now

class Act:
    def act(self):
        print("acted", flush=True)

act = Act()
at_the_end(act.act)
at_the_end(act.act)
at_the_end(lambda: 1 / 0)
"""


class LastActs(SynchronousTestCase):
    def run_to_its_end(self, code: str) -> tuple[int, str]:
        """Its exit status and what it printed."""
        command = [sys.executable, "-c", HEAD + code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout

    def test_an_exit_without_cleaning_up(self) -> None:
        self.assertEqual((7, "acted\n"), self.run_to_its_end("exit_now(7)"))

    def test_from_another_thread(self) -> None:
        code = "threading.Thread(target=exit_now, args=(3,)).start(); threading.Event().wait()"
        self.assertEqual((3, "acted\n"), self.run_to_its_end(code))

    def test_an_ordinary_end_and_an_exception(self) -> None:
        self.assertEqual((0, "acted\n"), self.run_to_its_end(""))
        self.assertEqual((1, "acted\n"), self.run_to_its_end("raise ValueError"))
