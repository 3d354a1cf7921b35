"""The exit status of a real process under ``twistd -n``, and what it leaves behind (client-core section 1)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

TAC = Path(__file__).with_name("endings.tac")
LIMIT = 30
"""Seconds; each process takes about one."""

STATUSES = {"die": 7, "forced die": 7, "lonely": 2, "no state": 1, "hang": 1, "SIGTERM": 0, "SIGINT": 0}


class EndingTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def twistd(self, ending: str, limit: float = 10) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        process = subprocess.Popen(
            [*command, "--nodaemon", "--pidfile=", "--no_save", "--python", str(TAC)],
            env={**os.environ, "ENDING": ending, "LIMIT": str(limit), "PROFILE_DIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.kill)
        return process

    def dumped(self, process: subprocess.Popen[str], kind: str) -> str:
        """What it dumped, in one file."""
        (path,) = self.folder.glob(f"*-{process.pid}-*")
        name = rf"fleetspeakd-{kind}-pprof-{process.pid}-\d{{4}}(-\d\d){{5}}\.\d{{3}}"
        self.assertTrue(re.fullmatch(name, path.name), path.name)
        return path.read_text()


class ExitStatusTests(EndingTestCase):
    def test_items_21_82_and_131_the_exit_status_says_why_the_client_ended(self) -> None:
        processes = {ending: self.twistd(ending) for ending in STATUSES}
        for ending, process in processes.items():
            if ending.startswith("SIG"):
                assert process.stdout is not None
                next(line for line in process.stdout if "started with" in line)
                process.send_signal(getattr(signal, ending))
        outputs = {ending: process.communicate(timeout=LIMIT)[0] for ending, process in processes.items()}
        statuses = {ending: process.returncode for ending, process in processes.items()}
        self.assertEqual(statuses, STATUSES, outputs)
        for ending, output in outputs.items():
            self.assertNotIn("Traceback", output, ending)
        self.assertEqual(outputs["no state"].count("there is no room for the state"), 1)
        self.assertIn("client stopped", outputs["die"])
        self.assertNotIn("client stopped", outputs["forced die"])
        self.assertIn("the client did not stop within", self.dumped(processes["hang"], "goroutine"))

    def test_a_reactor_that_is_wedged_at_the_signal_is_ended_with_status_1_and_its_stacks(self) -> None:
        began = time.monotonic()
        wedged, blocked = self.twistd("wedged", limit=0.5), self.twistd("blocked thread", limit=1)
        output = wedged.communicate(timeout=LIMIT)[0]
        self.assertEqual(wedged.returncode, 1, output)
        self.assertIn("did not end within", output)
        self.assertIn("in wedge", self.dumped(wedged, "goroutine"))
        self.assertEqual((blocked.communicate(timeout=LIMIT), blocked.returncode)[1], 1)
        self.assertIn("PoolThread", self.dumped(blocked, "goroutine"))
        self.assertLess(time.monotonic() - began, 20)

    def test_what_systemds_watchdog_ends_tells_where_it_was(self) -> None:
        process = self.twistd("abort")
        output = process.communicate(timeout=LIMIT)[0]
        self.assertEqual(process.returncode, -signal.SIGABRT)
        self.assertRegex(output, "Fatal Python error: Aborted(.|\n)* in wedge_by_abort")

    def test_item_131_sigusr1_writes_a_heap_profile_and_the_process_lives(self) -> None:
        process = self.twistd("SIGUSR1")
        output = process.communicate(timeout=LIMIT)[0]
        self.assertEqual(process.returncode, 0, output)
        self.assertIn("wrote a heap profile to", output)
        self.assertRegex(self.dumped(process, "heap"), r"\d+ +\d+  builtins\.dict\n")
        self.assertIn("client stopped", output)
