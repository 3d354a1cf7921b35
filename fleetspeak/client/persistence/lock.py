"""One client at a time on one state."""

from __future__ import annotations

from pathlib import Path

from fleetspeak.program.lock import ProcessLock


class StateLock(ProcessLock):
    """The lock on a client's state."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "client runs on the same state", "stop it, or give this one a state file of its own")
