"""`fleetspeak demo`, as a user runs it: real processes, from the first line to the last."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

LIMIT = 120
"""Seconds; it takes about ten."""


def demo(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from fleetspeak.cli.main import main; main()", "demo", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def folder_of(output: str) -> Path:
    found = re.search(r"A fleet in (\S+),", output)
    assert found is not None, output
    return Path(found[1])


def programs_in(folder: Path) -> list[str]:
    """The command lines of processes that were started with something in this folder."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_text()
            except OSError:
                continue  # it has ended meanwhile
            if str(folder) in line:
                lines.append(line.replace("\0", " "))
    return lines


class DemoTests(SynchronousTestCase):
    def test_once_it_shows_every_answer_and_leaves_nothing_behind(self) -> None:
        process = demo("--once")
        self.addCleanup(process.kill)
        output, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 0, output)
        for name in ("polling", "streaming"):
            self.assertIn(f"Hello {name} client!", output)
            self.assertIn(f"demo-{name}", output)
        self.assertEqual(output.count("what goes in comes out"), 2, output)
        self.assertEqual(output.count("communicator.txt"), 2, output)
        self.assertNotIn("\033", output)
        self.assertFalse(folder_of(output).exists())
        self.assertEqual(programs_in(folder_of(output)), [])

    def test_otherwise_the_fleet_goes_on_until_ctrl_c(self) -> None:
        process = demo()
        self.addCleanup(process.kill)
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if "until Ctrl-C" in line:
                break
        self.assertEqual(len(programs_in(folder_of(seen))), 3, seen)
        os.kill(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 0, seen + rest)
        self.assertFalse(folder_of(seen).exists())
        self.assertEqual(programs_in(folder_of(seen)), [])
