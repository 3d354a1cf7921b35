"""Broadcasts."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator

from fleetspeak.cli.admin import identifiers, lists, payload, times
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.identifiers import BROADCAST_ID_SIZE
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Report, Row
from fleetspeak.cli.admin.times import Times
from fleetspeak.pb import admin, broadcasts, common, operator
from fleetspeak.records import UNLIMITED

INSTEAD = "`fleetspeak-admin listactivebroadcasts` lists those that are active"

COLUMNS = (
    Column("broadcast_id", "Broadcast ID", 16, whole=True),
    Column("state", "State", 8),
    Column("service", "From", 20),
    Column("destination", "To", 20),
    Column("message_type", "Type", 20),
    Column("labels", "Labels", 20),
    Column("limit", "Limit", 8, right=True),
    Column("sent", "Sent", 8, right=True),
    Column("errors", "Errors", 6, right=True),
    Column("expires", "Expires", 24),
)
ACTIVE_COLUMNS = (
    Column("broadcast_id", "Broadcast ID", 16, whole=True),
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


def _declare_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", required=True, dest="source", metavar="SERVICE", help="the server's service that sends"
    )
    parser.add_argument(
        "--service", default="", metavar="NAME", help="the clients' service [default: of the same name]"
    )
    parser.add_argument("--type", default="", metavar="TYPE", help="message type")
    lists.declare_labels(parser, "only for clients with this label; may be repeated")
    parser.add_argument("--limit", type=_limit, default=UNLIMITED, metavar="N", help="most clients [default: all]")
    parser.add_argument(
        "--max-errors", type=_limit, default=0, metavar="N", help="stop when so many clients failed [0: never]"
    )
    parser.add_argument("--expires", metavar="TIME", help="such as 2026-11-28T14:30:00Z, or 2h from now")
    parser.add_argument(
        "--group", default="", metavar="NAME", help="ends active ones of this group to the same clients"
    )
    parser.add_argument("--id", metavar="ID", help="broadcast id [default: a random one]")
    payload.declare(parser)


def _limit(text: str) -> int:
    number = int(text)
    if not 0 <= number <= UNLIMITED:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {UNLIMITED}")
    return number


def _create(link: Link, arguments: Arguments) -> Report:
    broadcast = broadcasts.Broadcast(
        broadcast_id=identifiers.broadcast_id(arguments.id) if arguments.id else secrets.token_bytes(BROADCAST_ID_SIZE),
        source=common.Address(service_name=arguments.source),
        destination=common.Address(service_name=arguments.service) if arguments.service else None,
        message_type=arguments.type,
        required_labels=lists.labels(arguments.label),
        expiration_time=times.parse(arguments.expires, time.time(), ahead=True) if arguments.expires else None,
        data=payload.pack(arguments),
        group_name=arguments.group,
    )
    again = f"it may be stored all the same; with --id {broadcast.broadcast_id.hex()} a second try stores it only once"
    with link.perhaps_done(again):
        _store(link, arguments, broadcast)
    broadcast_id = broadcast.broadcast_id
    return Report(lambda times: [broadcast_id.hex()], {"broadcast_id": broadcast_id})


def _store(link: Link, arguments: Arguments, broadcast: broadcasts.Broadcast) -> None:
    """By our API only if that is needed."""
    if arguments.max_errors:
        ours = operator.CreateBroadcastRequest(
            broadcast=broadcast, limit=arguments.limit, max_errors=arguments.max_errors
        )
        instead = "without --max-errors a Go server takes it as well"
        link.call("CreateBroadcast", link.operator.CreateBroadcast, ours, instead)
    else:
        request = admin.CreateBroadcastRequest(broadcast=broadcast, limit=arguments.limit)
        link.call("CreateBroadcast", link.admin.CreateBroadcast, request)


def _declare_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--service", default="", metavar="NAME", help="only of this source service")
    lists.declare_state(parser, operator.BroadcastState)
    lists.declare_limit(parser)


def _list(link: Link, arguments: Arguments) -> Listing:
    state = lists.state(operator.BroadcastState, arguments.state)
    request = operator.ListBroadcastsRequest(service=arguments.service, state=state)
    entries = lists.paged(
        link, "ListBroadcasts", link.operator.ListBroadcasts, request, "broadcasts", arguments.limit, INSTEAD
    )
    return Listing(COLUMNS, map(_row, entries), "No broadcasts found.")


def _row(entry: operator.BroadcastEntry) -> Row:
    return {
        **row_of(entry.broadcast),
        "state": lists.state_name(operator.BroadcastState, entry.state),
        "limit": None if entry.limit >= UNLIMITED else entry.limit,
        "sent": entry.sent,
        "allocated": entry.allocated,
        "errors": entry.errors,
        "max_errors": entry.max_errors or None,
    }


def _pause(link: Link, arguments: Arguments) -> Report:
    instead = "`fleetspeak-admin disablebroadcasts ID...` ends them for good"
    link.call("PauseBroadcasts", link.operator.PauseBroadcasts, _request(arguments), instead)
    return _done("paused", arguments)


def _resume(link: Link, arguments: Arguments) -> Report:
    link.call("ResumeBroadcasts", link.operator.ResumeBroadcasts, _request(arguments), INSTEAD)
    return _done("resumed", arguments)


def _request(arguments: Arguments) -> operator.BroadcastIds:
    return operator.BroadcastIds(broadcast_ids=map(identifiers.broadcast_id, arguments.broadcast_ids))


def _done(what: str, arguments: Arguments) -> Report:
    broadcast_ids = [identifiers.broadcast_id(text) for text in arguments.broadcast_ids]
    return Report(lambda times: [f"{len(broadcast_ids)} broadcasts are {what}."], {what: broadcast_ids})


COMMANDS = (
    Command("create", "send a message to all clients, or those with labels; prints its id", _create, _declare_create),
    Command("list", "list broadcasts of any state", _list, _declare_list),
    Command("pause", "send no more of these until they are resumed", _pause, _some_ids),
    Command("resume", "go on with paused ones", _resume, _some_ids),
    Command("disable", "send no more of these, ever", _disable, _some_ids),
    Command("listactivebroadcasts", "list broadcasts that may still be sent", _list_upstream, _one_service),
    Command("disablebroadcasts", "send no more of these broadcasts", _disable, _some_ids),
)
