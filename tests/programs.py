"""One real process of a test: started, watched line by line, ended by its process id.

Waiting is for something that happens (a line in the log, the end of the process), with a deadline; nothing
here sleeps and hopes.  The output is printed as it comes, so that pytest shows it with the test that failed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar
from unittest import SkipTest

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that anything may take which takes well under one on a machine of its own."""


class NotInTime(AssertionError):
    """What was waited for did not happen; the text says what, and what was seen instead."""


class Program:
    """A running process.  It dies with the thread that started it, whatever happens to that."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        watch_output: bool = True,
    ) -> None:
        """Start `argv`.

        @param name: what its lines in the output of a failed test begin with.
        @param folder: its working directory.
        @param environment: added to ours.
        @param watch_output: False keeps standard output (as `self.output`) for the caller to read.
        """
        self.name = name
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._open_streams = 1 + watch_output
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, argv)],
            stdin=subprocess.DEVNULL if watch_output else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.input = self._process.stdin
        self.output = self._process.stdout
        self._watchers = [self._watch(self._process.stderr)]
        if watch_output:
            self._watchers.append(self._watch(self._process.stdout))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for_line(self, pattern: str, timeout: float = PATIENCE, *, times: int = 1) -> str:
        """Wait until `times` lines match the regular expression; returns the last one of them.

        @raise NotInTime: it did not come within `timeout` seconds, or the process ended without it.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = self.lines_matching(pattern)
                if len(found) >= times:
                    return found[times - 1]
                left = deadline - time.monotonic()
                if left <= 0 or not self._open_streams:
                    state = "and runs" if self.running else f"but ended with {self._process.poll()}"
                    tail = "\n".join(self.lines[-30:])
                    raise NotInTime(f"{self.name} never logged {pattern!r} {state}; it said at last:\n{tail}")
                self._changed.wait(left)

    def lines_matching(self, pattern: str) -> list[str]:
        """The lines so far that the regular expression is found in."""
        return [line for line in self.lines if re.search(pattern, line)]

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of the process; returns its exit status, negative for a signal."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NotInTime(f"{self.name} still runs after {timeout} s") from None
        self._close()
        return status

    def terminate(self, timeout: float = PATIENCE) -> int:
        """Ask it to end (SIGTERM); returns its exit status."""
        return self.end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End it on the spot, as a crash would (SIGKILL)."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals, timeout: float = PATIENCE) -> int:
        """Send a signal that ends it; returns its exit status."""
        if self.running:
            self._process.send_signal(number)
        return self.wait(timeout)

    def ask_to_end(self) -> None:
        """Send SIGTERM, and do not wait."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)

    def make_sure_it_ended(self) -> None:
        """For cleaning up: gently if that works at once, else not."""
        try:
            self.terminate(10)
        except NotInTime:
            self.kill()

    def _watch(self, stream: IO[str]) -> threading.Thread:
        thread = threading.Thread(target=self._read, args=(stream,), daemon=True, name=f"watch {self.name}")
        thread.start()
        return thread

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            line = line.rstrip("\n")
            print(f"{self.name}: {line}")
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()

    def _close(self) -> None:
        for watcher in self._watchers:
            # A grandchild that survived may still hold the other end: then the rest of its output is let go.
            watcher.join(2)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not any(watcher.is_alive() for watcher in self._watchers):
                stream.close()


def eventually(check: Callable[[], T | None], what: str, timeout: float = PATIENCE) -> T:
    """Ask again until `check` returns something true; returns that.

    Only for what cannot be awaited, such as a count in another process's database.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {timeout} s; at last: {found!r}")
        pause.wait(0.05)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that the kernel says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require(found: str | Path | None, name: str, remedy: str) -> Path:
    """The path of a needed program; a missing one is an error in CI and skips the test elsewhere."""
    if found is not None and Path(found).exists():
        return Path(found)
    complaint = f"{name} is missing: {remedy}"
    if os.environ.get("CI"):
        raise FileNotFoundError(complaint)
    raise SkipTest(complaint)


def require_on_path(name: str, remedy: str) -> Path:
    """Like `require`, for a program that is looked up as a shell would, and in the sbin folders."""
    return require(shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"), name, remedy)
