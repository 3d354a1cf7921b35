"""`fleetspeak demo`, as a user runs it: real processes, from the first line to the last."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.demo.interruption import SIGNALS, Interruption

LIMIT = 120
"""Seconds; it takes about ten."""


def demo(*words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from fleetspeak.cli.main import main; main()", "demo", *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def folder_of(output: str) -> Path:
    found = re.search(r"A fleet in (\S+),", output)
    assert found is not None, output
    return Path(found[1])


def programs_in(folder: Path) -> list[str]:
    """The pids and command lines of processes that were started with something in this folder."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_text()
            except OSError:
                continue  # it has ended meanwhile
            if str(folder) in line:
                lines.append(f"{entry.name} {line}".replace("\0", " "))
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

    def test_signals_at_any_moment_leave_nothing_behind(self) -> None:
        for last_line in ("certificates made", "Starting the polling", "The operator greets"):
            process = demo()
            self.addCleanup(process.kill)
            assert process.stdout is not None
            seen = ""
            while last_line not in seen:
                seen += process.stdout.read(1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                process.send_signal(number)
            rest, _ = process.communicate(timeout=LIMIT)
            self.assertEqual(process.returncode, 1, seen + rest)
            self.assertNotIn("Traceback", rest)
            folder = folder_of(seen + rest)
            self.assertFalse(folder.exists(), seen + rest)
            self.assertEqual(programs_in(folder), [])

    def test_a_program_that_dies_ends_the_demo_and_its_log_is_shown(self) -> None:
        process = demo()
        self.addCleanup(process.kill)
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if "until Ctrl-C" in line:
                break
        (server,) = [line for line in programs_in(folder_of(seen)) if "fleetspeak-server" in line]
        os.kill(int(server.split()[0]), signal.SIGKILL)
        rest, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 1, seen + rest)
        self.assertIn("fleetspeak demo: server ended with status -9", rest)
        self.assertIn("Fleetspeak server started", rest)
        self.assertEqual(programs_in(folder_of(seen)), [])

    def test_otherwise_one_can_ask_the_clients_at_a_terminal_until_ctrl_c(self) -> None:
        terminal, end = os.openpty()
        self.addCleanup(os.close, terminal)
        process = demo(stdin=end)
        os.close(end)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        seen = ""
        for line in (
            "hello streaming Ada",
            "ls streaming /no/such/file",
            "cat streaming /etc/hostname /dev/null",
            "hello nobody",
            "fleet",
            "",
        ):
            while not seen.endswith("\n> "):
                seen += process.stdout.read(1)
            os.write(terminal, line.encode() + b"\n")
            seen += "\n"
        self.assertEqual(len(programs_in(folder_of(seen))), 3, seen)
        os.kill(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 0, seen + rest)
        self.assertIn("Hello Ada!", seen)
        self.assertIn("command failed: exit status", seen)
        self.assertIn(Path("/etc/hostname").read_text().strip(), seen)
        self.assertEqual(seen.count("CLIENT is polling or streaming."), 2)
        self.assertEqual(seen.count("The fleet, as the server knows it"), 2)
        self.assertFalse(folder_of(seen).exists())
        self.assertEqual(programs_in(folder_of(seen)), [])


class InterruptionTests(SynchronousTestCase):
    """The first signal interrupts, but not in the middle of what is held."""

    def setUp(self) -> None:
        for number in SIGNALS:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.interruption = Interruption()
        self.interruption.install()

    def test_only_the_first_interrupts(self) -> None:
        self.assertRaises(KeyboardInterrupt, os.kill, os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    def test_what_is_held_is_finished_first(self) -> None:
        finished = []

        def work() -> None:
            with self.interruption.held():
                os.kill(os.getpid(), signal.SIGHUP)
                finished.append(True)

        self.assertRaises(KeyboardInterrupt, work)
        self.assertEqual([True], finished)
        work()

    def test_none_interrupts_the_cleaning_up(self) -> None:
        self.interruption.hold()
        with self.interruption.held():
            os.kill(os.getpid(), signal.SIGINT)
