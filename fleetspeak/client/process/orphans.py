"""Marks the children of a client, so that its next start finds those which outlived it, and ends them.

The mark is a variable of their environment, which their own children inherit: it finds a process that has left its
process group, too.  One that is meant to outlive the client is started without the variable (``env -u``).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import psutil
from twisted.logger import Logger

MARK = "FLEETSPEAK_CLIENT_MARK"

ROUNDS = 5
"""How often we look again, as a process may start another one while we look."""

ROUND_LIMIT = 0.5
"""Seconds to wait for those that were killed in a round."""

_log = Logger()


def mark_of(state_file: Path) -> dict[str, str]:
    """The variable that all children of the client with this state have.

    The folder's device and inode belong to it, because in a container another folder may have the same name.
    Raises OSError.
    """
    folder = state_file.parent.stat()
    return {MARK: f"{folder.st_dev}:{folder.st_ino}:{state_file}"}


@dataclass(frozen=True, slots=True)
class Marked:
    """A process with our mark."""

    pid: int
    group: int


def whom_to_kill(marked: Iterable[Marked], spared: Set[int], spared_groups: Set[int]) -> tuple[set[int], set[int]]:
    """The groups, and beside them the single processes, to be killed.

    A group is killed as a whole if its leader is marked: then a child of a client began it.  The groups of `spared`
    processes, which are those that lead to this one, are never killed, even if one of them has the mark.
    """
    marked = list(marked)
    to_kill = [process for process in marked if process.pid not in spared]
    kept = spared_groups | {process.group for process in marked if process.pid in spared}
    groups = {process.group for process in to_kill if process.pid == process.group} - kept
    return groups, {process.pid for process in to_kill if process.group not in groups}


def reap(mark: Mapping[str, str]) -> list[int]:
    """Kill all processes with this mark, but for this one and those it descends from.  Reads files: for a thread.

    @return: the pids of those that were found.
    """
    ours = psutil.Process()
    line = [ours, *ours.parents()]
    spared = {process.pid for process in line}
    spared_groups = {group for pid in spared if (group := _group(pid)) is not None}
    found: list[int] = []
    for _ in range(ROUNDS):
        processes = {process.pid: process for process in psutil.process_iter() if _bears(process, mark)}
        marked = [Marked(pid, group) for pid in processes if (group := _group(pid)) is not None]
        groups, singles = whom_to_kill(marked, spared, spared_groups)
        if not groups and not singles:
            break
        _kill({pid: processes[pid] for pid in groups | singles}, groups)
        going = [process for pid, process in processes.items() if pid not in spared]
        _wait_for(going)
        new = [process.pid for process in going if process.pid not in found]
        if not new:
            break  # what is left cannot be ended, for instance because it waits for a dead disk
        found += new
    return found


def reap_and_tell(mark: Mapping[str, str]) -> None:
    """The same, with a line in the log if there were any."""
    found = reap(mark)
    if found:
        _log.warn(
            "ended {count} processes that had outlived this client: {pids}. "
            "Start what is meant to go on without the variable " + MARK,
            count=len(found),
            pids=", ".join(map(str, found)),
        )


def _wait_for(processes: Iterable[psutil.Process]) -> None:
    """Not with `psutil.wait_procs`, which takes the exit status of those that are our own children."""
    limit = time.monotonic() + ROUND_LIMIT
    while time.monotonic() < limit and any(map(_runs, processes)):
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _bears(process: psutil.Process, mark: Mapping[str, str]) -> bool:
    try:
        environment = process.environ()
    except psutil.Error:
        return False  # gone, or not ours
    return all(environment.get(name) == value for name, value in mark.items())


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _kill(processes: Mapping[int, psutil.Process], groups: Set[int]) -> None:
    for pid, process in processes.items():
        try:
            # While its leader is there, the number of a group is not another group's.
            if pid in groups and process.is_running():
                os.killpg(pid, signal.SIGKILL)
            else:
                process.kill()  # checks that the number is not another process's by now
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
