"""Broadcasts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from fleetspeak.cli.admin import identifiers
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.identifiers import BROADCAST_ID_SIZE
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Report, Row
from fleetspeak.cli.admin.times import Times
from fleetspeak.pb import admin, broadcasts

ACTIVE_COLUMNS = (
    Column("broadcast_id", "Broadcast ID", 16),
    Column("service", "Source service", 20),
    Column("message_type", "Message type", 20),
    Column("labels", "Labels", 20),
    Column("expires", "Expires", 24),
)


def row_of(broadcast: broadcasts.Broadcast) -> Row:
    """A broadcast's row."""
    return {
        "broadcast_id": broadcast.broadcast_id,
        "service": broadcast.source.service_name,
        "destination": broadcast.destination.service_name or broadcast.source.service_name,
        "message_type": broadcast.message_type,
        "labels": [f"{label.service_name}:{label.label}" for label in broadcast.required_labels],
        "group": broadcast.group_name,
        "expires": broadcast.expiration_time if broadcast.HasField("expiration_time") else None,
    }


def _one_service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service_name", nargs="?", default="")


def _some_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("broadcast_ids", nargs="+", metavar="broadcast_id")


def _list_upstream(link: Link, arguments: Arguments) -> Listing:
    request = admin.ListActiveBroadcastsRequest(service_name=arguments.service_name)
    reply = link.call("ListActiveBroadcasts", link.admin.ListActiveBroadcasts, request)
    count = len(reply.broadcasts)

    def lines(rows: list[Row], times: Times) -> Iterator[str]:
        yield f"Found {count} active broadcasts."
        yield f"{'Broadcast ID:':<20} {'Source Service:':<20} Message Type:"
        for row in rows:
            yield f"{row['broadcast_id'].hex():<20} {row['service']:<20} {row['message_type']}"

    rows = map(row_of, filter(_has_usable_id, reply.broadcasts))
    return Listing(ACTIVE_COLUMNS, rows, "No active broadcasts found.", lines)


def _has_usable_id(broadcast: broadcasts.Broadcast) -> bool:
    broadcast_id = broadcast.broadcast_id
    if len(broadcast_id) == BROADCAST_ID_SIZE:
        return True
    print(f"Ignoring invalid broadcast_id [{broadcast_id.hex()}], BroadcastID must be 8 bytes", file=sys.stderr)
    return False


def _disable(link: Link, arguments: Arguments) -> Report:
    broadcast_ids = [
        identifiers.broadcast_id(text, f'Unable to convert "{{text}}" (index {index}) to broadcast id: {{why}}')
        for index, text in enumerate(arguments.broadcast_ids)
    ]
    request = admin.DisableBroadcastsRequest(broadcast_ids=broadcast_ids)
    link.call("DisableBroadcasts", link.admin.DisableBroadcasts, request)
    return Report(
        lambda times: [f"Successfully sent disable request for {len(broadcast_ids)} broadcasts."],
        {"disabled": broadcast_ids},
    )


COMMANDS = (
    Command("listactivebroadcasts", "list broadcasts that may still be sent", _list_upstream, _one_service),
    Command("disablebroadcasts", "send no more of these broadcasts", _disable, _some_ids),
)
