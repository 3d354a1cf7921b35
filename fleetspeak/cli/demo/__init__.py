"""``fleetspeak demo``: a server, two clients and a service at each end, on this machine, shown as it happens."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fleetspeak.cli.demo.interruption import Interruption


def main(words: Sequence[str]) -> int:
    """Entry point.  Returns 0 if every answer came.  Raises FleetspeakError."""
    parser = argparse.ArgumentParser(
        prog="fleetspeak demo",
        description="Run a server on SQLite, a polling and a streaming client, and services at both ends, on this "
        "machine. Everything is made in a temporary folder and gone at the end.",
    )
    parser.add_argument("--once", action="store_true", help="stop when every answer came, rather than at Ctrl-C")
    arguments = parser.parse_args(words)
    interruption = Interruption()
    interruption.install()
    from fleetspeak.cli.demo.show import run  # needs the server extra, which --help does not

    return run(interruption, once=arguments.once)
