"""Where a message is on the client's disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fleetspeak.pb import common

Priority: TypeAlias = common.Message.Priority.ValueType


@dataclass(slots=True, eq=False)
class Segment:
    """A file of the spool."""

    name: str
    first: int
    """No message in it has a lesser number."""
    seed: int
    """Of its checksums."""
    size: int = 0
    """Bytes that are surely on the disk."""
    live: int = 0
    """Messages of it that are in memory and not acked."""
    live_bytes: int = 0
    busy: bool = False
    """It is about to be deleted or rewritten."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A message on the disk that is in memory, too."""

    priority: Priority
    number: int
    size: int
    """Bytes of the message alone."""
    segment: Segment
