"""``fleetspeak-admin``: what operators ask of a server, and tell it, on the command line.

Every command fetches, and returns what shall be shown (`output`): text as upstream's tool prints it, a table for
people, or JSON for programs.  Nothing but the command that was asked for is imported, and grpc not before it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """``fleetspeak admin``.  Returns an exit status."""
    from fleetspeak.cli.admin.program import run

    return run(words)
