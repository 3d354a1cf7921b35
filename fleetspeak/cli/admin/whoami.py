"""Who the server takes this program's user for."""

from __future__ import annotations

from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Report
from fleetspeak.pb import common


def _whoami(link: Link, arguments: Arguments) -> Report:
    instead = "a Go server knows nobody, and lets everybody do everything"
    found = link.call("WhoAmI", link.operator.WhoAmI, common.EmptyMessage(), instead)
    return Report(
        lambda times: [f"{found.name}, with role {found.role}, from {found.address}"],
        {"name": found.name, "role": found.role, "address": found.address},
    )


COMMANDS = (Command("whoami", "say who the server takes you for, and in which role", _whoami),)
