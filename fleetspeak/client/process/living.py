"""The children that run, so that none outlives a client that ends without stopping its services."""

from __future__ import annotations

import os
import signal


class Living:
    """The pids of children that have not been waited for; so no number is another process's."""

    def __init__(self) -> None:
        self._children: dict[int, bool] = {}

    def add(self, pid: int, *, own_group: bool) -> None:
        """A child runs; with `own_group` it leads a group of its own."""
        self._children[pid] = own_group

    def discard(self, pid: int) -> None:
        """It is gone."""
        self._children.pop(pid, None)

    def kill_all(self) -> None:
        """Kill them, and their groups.  Any thread."""
        for pid, own_group in list(self._children.items()):
            try:
                (os.killpg if own_group else os.kill)(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


LIVING = Living()
"""Those of this process."""
