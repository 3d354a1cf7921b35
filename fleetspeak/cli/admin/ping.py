"""Whether a server answers, and what it can do."""

from __future__ import annotations

import time

from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Report
from fleetspeak.pb import common


def _ping(link: Link, arguments: Arguments) -> Report:
    link.call("KeepAlive", link.admin.KeepAlive, common.EmptyMessage())  # connects
    begun = time.monotonic()
    link.call("KeepAlive", link.admin.KeepAlive, common.EmptyMessage())
    seconds = time.monotonic() - begun
    has_operator = link.has_operator()
    kind = "ours" if has_operator else "a Go server, or an older one of ours: upstream's commands work"
    return Report(
        lambda times: [f"{link.address} answers in {seconds * 1000:.1f} ms; {kind}"],
        {"address": link.address, "seconds": round(seconds, 6), "operator": has_operator},
    )


COMMANDS = (Command("ping", "say whether the server answers, and how quickly", _ping),)
