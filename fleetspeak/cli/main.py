"""``fleetspeak``: the command for everything that is neither server nor client."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

from fleetspeak.errors import FleetspeakError

_COMMANDS = {
    "admin": "ask, and tell, a server; the same as fleetspeak-admin",
    "demo": "run a server, two clients and a service at each end on this machine",
    "admin-token": "make a token for the admin port",
    "doctor": "find out why a client does not connect",
    "plugins": "list the plug-ins that are found, and those that cannot be used",
    "retention": "delete what is old from the servers' database, or count it",
    "sign-service": "sign the configuration of a client service with a deployment key",
}
"""Each is a module of this package, named with _ for -, with `main(words: Sequence[str]) -> int`, an exit status."""


def main(words: Sequence[str] | None = None) -> None:
    """Entry point; exits with the status of the command."""
    parser = argparse.ArgumentParser(
        prog="fleetspeak",
        description="Tools for a Fleetspeak fleet.",
        epilog="commands:\n" + "\n".join(f"  {name:<14}{help}" for name, help in _COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = metadata.version("fleetspeak-twisted")
    parser.add_argument("--version", action="version", version=f"fleetspeak-twisted {version}")
    parser.add_argument("command", choices=list(_COMMANDS), metavar="command", help="see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command; --help tells about them")
    chosen = parser.parse_args(words)
    # Only the chosen command is imported: others may need what is not installed.
    module = importlib.import_module(f"fleetspeak.cli.{chosen.command.replace('-', '_')}")
    try:
        sys.exit(module.main(chosen.arguments))
    except FleetspeakError as error:
        sys.exit(f"fleetspeak {chosen.command}: {error}")
