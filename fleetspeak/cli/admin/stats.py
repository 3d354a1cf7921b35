"""Figures: messages by service, type and state, and clients in contact."""

from __future__ import annotations

import argparse
from typing import Any

from google.protobuf.duration_pb2 import Duration

from fleetspeak.cli.admin import lists, messages, times
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Report, Row
from fleetspeak.pb import operator

COLUMNS = (
    Column("service", "Service", 20),
    Column("to_client", "On clients", 10),
    Column("message_type", "Type", 20),
    Column("state", "State", 9),
    Column("count", "Messages", 9, right=True),
    Column("oldest", "Oldest", 24),
)


def _messages(link: Link, arguments: Arguments) -> Listing:
    request = operator.CountMessagesRequest(filter=messages.filter_of(arguments))
    instead = "`fleetspeak-admin messages count CLIENT_ID...` counts what waits for clients"
    reply = link.call("CountMessages", link.operator.CountMessages, request, instead)
    return Listing(COLUMNS, map(_row, reply.counts), "No messages found.")


def _row(count: operator.MessageCount) -> Row:
    return {
        "service": count.service,
        "to_client": count.to_client,
        "message_type": count.message_type,
        "state": lists.state_name(operator.MessageState, count.state),
        "count": count.count,
        "oldest": count.oldest if count.HasField("oldest") else None,
    }


def enrolment(link: Link, window: str) -> operator.GetEnrolmentResponse:
    """The state of enrolment, and figures of clients within the window.  Raises CommandFailed."""
    length = Duration()
    length.FromMilliseconds(round(times.parse_duration(window) * 1000))
    instead = "`fleetspeak-admin listclients` lists all clients with their last contact"
    request = operator.GetEnrolmentRequest(window=length)
    return link.call("GetEnrolment", link.operator.GetEnrolment, request, instead)


def client_figures(found: operator.GetEnrolmentResponse) -> dict[str, Any]:
    """The part of a record that is about clients."""
    return {"clients": found.clients, "blacklisted": found.blacklisted, "in_contact": found.in_contact}


def _clients(link: Link, arguments: Arguments) -> Report:
    found = enrolment(link, arguments.window)

    def lines(style: times.Times) -> list[str]:
        return [
            f"Clients:      {found.clients}",
            f"Blacklisted:  {found.blacklisted}",
            f"In contact:   {found.in_contact} (within {arguments.window})",
        ]

    return Report(lines, {**client_figures(found), "window": times.parse_duration(arguments.window)})


def _declare_messages(parser: argparse.ArgumentParser) -> None:
    messages.declare_filter(parser)


COMMANDS = (
    Command("messages", "count messages by service, type and state", _messages, _declare_messages),
    Command("clients", "count clients, and those in contact", _clients, lists.declare_window),
)
