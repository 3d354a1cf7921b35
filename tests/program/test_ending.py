"""The exit status of a real process under ``twistd -n`` (client-core section 1)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TAC = Path(__file__).with_name("endings.tac")
LIMIT = 30
"""Seconds; each process takes about one."""

STATUSES = {"die": 7, "forced die": 7, "lonely": 2, "no state": 1, "hang": 1, "SIGTERM": 0, "SIGINT": 0}


def twistd(ending: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    return subprocess.Popen(
        [*command, "--nodaemon", "--pidfile=", "--no_save", "--python", str(TAC)],
        env={**os.environ, "ENDING": ending},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class ExitStatusTests(SynchronousTestCase):
    def test_items_21_82_and_131_the_exit_status_says_why_the_client_ended(self) -> None:
        processes = {ending: twistd(ending) for ending in STATUSES}
        for ending, process in processes.items():
            self.addCleanup(process.kill)
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
