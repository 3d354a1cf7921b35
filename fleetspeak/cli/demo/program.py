"""One program of the demo: a child process whose log is kept, and can be waited for."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fleetspeak.errors import FleetspeakError

START_LIMIT = 60.0
"""Seconds for a program to say that it is ready; it takes one."""

STOP_LIMIT = 20.0
"""Seconds for a program to end after SIGTERM, before it is killed."""

LAST_LINES = 15
"""Lines of its log that are shown when a program fails."""


class ProgramFailed(FleetspeakError):
    """A program ended, or did not say what was expected; the text has the end of its log."""


class Program:
    """A running program.  Usable from any thread."""

    def __init__(self, name: str, command: Sequence[str], log_file: Path) -> None:
        """Start it.  Everything it prints goes to `log_file`."""
        self.name = name
        self._log_file = log_file
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the demo, which then stops its programs in order
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    def wait_for(self, pattern: str) -> str:
        """What the first group of `pattern` is in the first line that has it.  Raises ProgramFailed."""
        deadline = time.monotonic() + START_LIMIT
        expression = re.compile(pattern)
        looked_at = 0
        with self._changed:
            while True:
                for line in self._lines[looked_at:]:
                    if found := expression.search(line):
                        return found[1]
                looked_at = len(self._lines)
                if not self._reader.is_alive():
                    raise self._ended()
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise ProgramFailed(f"{self.name} is not ready after {START_LIMIT:.0f} s:\n{self._tail()}")

    def check(self) -> None:
        """Raises ProgramFailed if it has ended."""
        if self._process.poll() is not None:
            raise self._ended()

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def stop(self) -> None:
        """Wait for its end; kill it if it does not come."""
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._log_file.open("w", encoding="utf-8") as log, self._process.stdout as output:
            for line in output:
                log.write(line)
                log.flush()
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _ended(self) -> ProgramFailed:
        return ProgramFailed(f"{self.name} ended with status {self._process.wait()}:\n{self._tail()}")

    def _tail(self) -> str:
        return "".join(f"  {line}" for line in self._lines[-LAST_LINES:])
