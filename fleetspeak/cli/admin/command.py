"""What a command is, and the table of all of them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    alone: bool = False
    """A command of ours by itself."""

    @property
    def upstream(self) -> bool:
        """Whether it is a command by itself, with the manners of upstream's tool."""
        return bool(self.usage)

    @property
    def by_itself(self) -> bool:
        """Whether it is no group."""
        return self.alone or self.upstream

    def commands(self) -> dict[str, Command]:
        """By name: itself, or those of the group.  Imports the module."""
        module = importlib.import_module(f"fleetspeak.cli.admin.{self.module}")
        alone = {name for name, group in GROUPS.items() if group.by_itself}
        return {one.name: one for one in module.COMMANDS if (one.name in alone) == self.by_itself}


GROUPS = {
    "listclients": Group("clients", "list clients", "[<client_id>...]"),
    "listcontacts": Group("contacts", "list the contacts of a client", "<client_id> [limit]"),
    "analysehistory": Group("contacts", "say whether a client was restored or cloned", "<client_id>"),
    "blacklistclients": Group("clients", "let clients take a new id", "[<client_id>...]"),
    "storefile": Group("files", "store a file for clients", "<service_name> <file_name> <file_path>"),
    "deletefile": Group("files", "delete a file", "<service_name> <file_name>"),
    "listactivebroadcasts": Group("broadcasts", "list active broadcasts", "[<service_name>]"),
    "disablebroadcasts": Group("broadcasts", "end broadcasts", "<broadcast_id>..."),
    "clients": Group("clients", "list, blacklist, unblacklist; contacts, history, usage"),
    "messages": Group("messages", "insert, status, pending, count, delete-pending, list, cancel, retry"),
    "broadcasts": Group("broadcasts", "create, list, pause, resume, disable"),
    "files": Group("files", "list, upload, delete"),
    "stats": Group("stats", "messages, clients"),
    "enrolment": Group("enrolment", "status, open, close, enrol"),
    "audit": Group("audit", "list, export"),
    "ping": Group("ping", "say whether the server answers", alone=True),
    "whoami": Group("whoami", "say who the server takes you for", alone=True),
    "completion": Group("completion", "let bash, zsh or fish complete command lines", alone=True),
}
"""By the first word of the command line."""


def upstream_usage() -> str:
    """As upstream's tool prints it."""
    lines = [f"    fleetspeak-admin {name} {group.usage}" for name, group in GROUPS.items() if group.upstream]
    return "\n".join(["Usage:", *lines]) + "\n"
