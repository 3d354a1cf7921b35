"""What a command is, and the table of all of them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Result

Arguments = argparse.Namespace


@dataclass(frozen=True, slots=True)
class Command:
    """One command, or one of a group."""

    name: str
    help: str
    run: Callable[[Link, Arguments], Result]
    """Raises CommandFailed."""
    declare: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    """Adds its arguments."""


@dataclass(frozen=True, slots=True)
class Group:
    """A first word of the command line, and where to find what it means."""

    module: str
    """In `fleetspeak.cli.admin`; it has COMMANDS, a tuple of Command."""
    help: str
    usage: str = ""
    """Arguments, of a command of upstream's."""

    @property
    def upstream(self) -> bool:
        """A command by itself, with the manners of upstream's tool."""
        return bool(self.usage)

    def commands(self) -> dict[str, Command]:
        """Imports the module."""
        module = importlib.import_module(f"fleetspeak.cli.admin.{self.module}")
        return {command.name: command for command in module.COMMANDS}


GROUPS = {
    "listclients": Group("clients", "list clients", "[<client_id>...]"),
    "listcontacts": Group("contacts", "list the contacts of a client", "<client_id> [limit]"),
    "analysehistory": Group("contacts", "say whether a client was restored or cloned", "<client_id>"),
    "blacklistclients": Group("clients", "let clients take a new id", "[<client_id>...]"),
    "storefile": Group("files", "store a file for clients", "<service_name> <file_name> <file_path>"),
    "deletefile": Group("files", "delete a file", "<service_name> <file_name>"),
    "listactivebroadcasts": Group("broadcasts", "list active broadcasts", "[<service_name>]"),
    "disablebroadcasts": Group("broadcasts", "end broadcasts", "<broadcast_id>..."),
}
"""By the first word of the command line."""


def upstream_usage() -> str:
    """As upstream's tool prints it."""
    lines = [f"    fleetspeak-admin {name} {group.usage}" for name, group in GROUPS.items() if group.upstream]
    return "\n".join(["Usage:", *lines]) + "\n"
