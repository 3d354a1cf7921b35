"""The audit trail: who did what, and how it ended."""

from __future__ import annotations

import argparse

from fleetspeak.cli.admin import lists
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Lines, Listing, Row
from fleetspeak.pb import operator

INSTEAD = "a Go server keeps no audit trail; what its admin API does is in its log at best"

COLUMNS = (
    Column("number", "Number", 8, right=True),
    Column("time", "Time", 24),
    Column("caller", "Who", 20),
    Column("role", "Role", 8),
    Column("address", "From", 21),
    Column("method", "What", 30, lambda name: name.removeprefix("fleetspeak.")),
    Column("request", "Of", 30),
    Column("outcome", "Outcome", 17),
    Column("detail", "Detail"),
)


def row_of(entry: operator.AuditEntry) -> Row:
    """An entry's row."""
    return {
        "number": entry.number,
        "time": entry.time if entry.HasField("time") else None,
        "caller": entry.caller,
        "role": entry.role,
        "address": entry.address,
        "method": entry.method,
        "request": entry.request,
        "outcome": entry.outcome,
        "detail": entry.detail,
        "seconds": entry.duration.ToTimedelta().total_seconds() if entry.HasField("duration") else None,
    }


def _declare_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--caller", default="", metavar="NAME", help="only of this caller")
    parser.add_argument(
        "--method", default="", metavar="NAME", help="only such as fleetspeak.server.Admin/InsertMessage"
    )
    lists.declare_span(parser, "a time")
    lists.declare_limit(parser)


def _list(link: Link, arguments: Arguments) -> Listing:
    request = operator.ListAuditEntriesRequest(
        time=lists.span(arguments), caller=arguments.caller, method=arguments.method
    )
    entries = lists.paged(
        link, "ListAuditEntries", link.operator.ListAuditEntries, request, "entries", arguments.limit, INSTEAD
    )
    return Listing(COLUMNS, map(row_of, entries), "No entries found.")


def _declare_export(parser: argparse.ArgumentParser) -> None:
    lists.declare_span(parser, "a time")
    parser.add_argument(
        "--after",
        type=int,
        default=0,
        metavar="NUMBER",
        help="only entries behind this one, the last of an earlier export",
    )


def _export(link: Link, arguments: Arguments) -> Lines:
    request = operator.ExportAuditEntriesRequest(time=lists.span(arguments), after=arguments.after)
    entries = link.stream("ExportAuditEntries", link.operator.ExportAuditEntries, request, INSTEAD)
    return Lines(map(row_of, entries))


COMMANDS = (
    Command("list", "list entries, the newest first", _list, _declare_list),
    Command("export", "print all entries as JSON, one a line, the oldest first", _export, _declare_export),
)
