"""Looks at a process of this machine with psutil: what it uses, whose descendant it is, and how to kill just it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from fleetspeak.core.usage import Sample

MAX_STATUS = 64 * 1024
"""Bytes of ``/proc/<pid>/status`` that are reported; it has some 1500."""


class ProcessGone(Exception):
    """There is no such process (any more)."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a process at one moment."""

    sample: Sample
    debug_status: str
    """Text of ``/proc/<pid>/status``; empty on systems without."""


class ProcessProbe:
    """One process, and never another one that got its number later.

    The calls read a few files of the kernel each, so they are made in threads, but never two at a time.
    """

    def __init__(self, pid: int) -> None:
        """Raises ProcessGone."""
        self.pid = pid
        try:
            self._process = psutil.Process(pid)
        except (psutil.Error, ValueError, OverflowError) as error:
            raise ProcessGone(f"there is no process {pid}") from error

    def descends_from(self, ancestor: int) -> bool:
        """Did the process `ancestor` start it, or a process that did?  One that has lost its parent says no."""
        try:
            return any(parent.pid == ancestor for parent in self._process.parents())
        except psutil.Error:
            return False

    def observe(self) -> Observation:
        """Look at it now.  Raises ProcessGone."""
        try:
            if not self._process.is_running():
                raise ProcessGone(f"process {self.pid} is gone")
            with self._process.oneshot():
                cpu = self._process.cpu_times()
                sample = Sample(
                    time=time.monotonic(),
                    user_cpu_ms=1000 * (cpu.user + getattr(cpu, "children_user", 0.0)),
                    system_cpu_ms=1000 * (cpu.system + getattr(cpu, "children_system", 0.0)),
                    rss=self._process.memory_info().rss,
                    fds=self._descriptors(),
                )
        except psutil.Error as error:
            raise ProcessGone(f"process {self.pid} cannot be looked at: {error}") from error
        return Observation(sample, self._status())

    def kill(self) -> bool:
        """Kill it.  False: it is gone, or is not ours to kill."""
        try:
            self._process.kill()
        except psutil.Error:
            return False
        return True

    def _descriptors(self) -> int:
        try:
            return self._process.num_fds()
        except (psutil.AccessDenied, AttributeError):  # another user's; a system that does not tell
            return 0

    def _status(self) -> str:
        try:
            with open(f"/proc/{self.pid}/status", "rb") as status:
                return status.read(MAX_STATUS).decode("utf-8", "replace")
        except OSError:
            return ""
