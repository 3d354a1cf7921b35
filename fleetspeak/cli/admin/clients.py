"""Clients: listing them, and taking away their ids."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from fleetspeak import ids
from fleetspeak.cli.admin import contacts, identifiers, lists, usage
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Report, Row
from fleetspeak.cli.admin.times import Times, to_nanoseconds
from fleetspeak.ids import CLIENT_ID_SIZE
from fleetspeak.pb import admin, operator

COLUMNS = (
    Column("client_id", "Client ID", 16, whole=True),
    Column("last_contact", "Last contact", 24),
    Column("address", "Address", 21),
    Column("labels", "Labels", 20),
    Column("blacklisted", "Blacklisted"),
)


def row_of(client: admin.Client) -> Row:
    """A client's row."""
    return {
        "client_id": client.client_id,
        "last_contact": client.last_contact_time if client.HasField("last_contact_time") else None,
        "address": client.last_contact_address,
        "streaming_to": client.last_contact_streaming_to,
        "client_clock": client.last_clock if client.HasField("last_clock") else None,
        "labels": [f"{label.service_name}:{label.label}" for label in client.labels],
        "blacklisted": client.blacklisted,
    }


def _many_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client_ids", nargs="*", metavar="client_id")


def _list_upstream(link: Link, arguments: Arguments) -> Listing:
    client_ids = [
        identifiers.client_id(text, f"Unable to convert [{{text}}] (index {index}) to client id: {{why}}")
        for index, text in enumerate(arguments.client_ids)
    ]
    reply = link.call("ListClients", link.admin.ListClients, admin.ListClientsRequest(client_ids=client_ids))
    known = sorted(filter(_has_usable_id, reply.clients), key=lambda one: to_nanoseconds(one.last_contact_time))
    return Listing(COLUMNS, map(row_of, known), "No clients found.", _upstream_lines)


def _has_usable_id(client: admin.Client) -> bool:
    if len(client.client_id) in (0, CLIENT_ID_SIZE):
        return True
    print(f"Ignoring invalid client id [{client.client_id.hex()}], ClientID must be 8 bytes", file=sys.stderr)
    return False


def _upstream_lines(rows: list[Row], times: Times) -> Iterator[str]:
    yield f"{'Client ID:':<16} {'Last Seen:':<23} Labels:"
    for row in rows:
        mark = " *blacklisted*" if row["blacklisted"] else ""
        time = times.upstream(row["last_contact"])
        yield f"{ids.show(row['client_id'])} {time} [{','.join(row['labels'])}]{mark}"


def _blacklist(link: Link, arguments: Arguments) -> Report:
    client_ids = [
        identifiers.client_id(text, f'Unable to convert "{{text}}" (index {index}) to client id: {{why}}')
        for index, text in enumerate(arguments.client_ids)
    ]
    for client_id in client_ids:
        request = admin.BlacklistClientRequest(client_id=client_id)
        link.call("BlacklistClient", link.admin.BlacklistClient, request)
    return Report(lambda times: (), {"blacklisted": client_ids})


def _declare_list(parser: argparse.ArgumentParser) -> None:
    lists.declare_labels(parser, "only clients with this label; may be repeated, then with all of them")
    lists.declare_span(parser, "their last contact")
    flag = parser.add_mutually_exclusive_group()
    flag.add_argument("--blacklisted", action="store_true", help="only blacklisted ones")
    flag.add_argument("--not-blacklisted", action="store_true", help="only others")
    lists.declare_limit(parser)


def _list(link: Link, arguments: Arguments) -> Listing:
    wanted = operator.ListClientsRequest
    flag = wanted.ONLY if arguments.blacklisted else wanted.NONE if arguments.not_blacklisted else wanted.ANY
    request = wanted(labels=lists.labels(arguments.label), last_contact=lists.span(arguments), blacklisted=flag)
    instead = "`fleetspeak-admin listclients` lists all clients, or those with given ids"
    found = lists.paged(link, "ListClients", link.operator.ListClients, request, "clients", arguments.limit, instead)
    return Listing(COLUMNS, map(row_of, found), "No clients found.")


def _some_ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client_ids", nargs="+", metavar="client_id")


def _unblacklist(link: Link, arguments: Arguments) -> Report:
    client_ids = [identifiers.one_client_id(text) for text in arguments.client_ids]
    request = operator.UnblacklistClientsRequest(client_ids=client_ids)
    instead = "a Go server cannot take it back: the client goes on under its new id"
    link.call("UnblacklistClients", link.operator.UnblacklistClients, request, instead)
    return Report(lambda times: [f"{len(client_ids)} clients are not blacklisted."], {"unblacklisted": client_ids})


COMMANDS = (
    Command("list", "list clients, or those with labels or contacts at given times", _list, _declare_list),
    Command("blacklist", "let clients take a new id at their next contact", _blacklist, _some_ids),
    Command("unblacklist", "let blacklisted clients keep their ids", _unblacklist, _some_ids),
    *usage.COMMANDS,
    *contacts.COMMANDS,
    Command("listclients", "list clients, those with the oldest contact first", _list_upstream, _many_ids),
    Command("blacklistclients", "let clients take a new id at their next contact", _blacklist, _many_ids),
)
