"""A client's contacts, and what they tell."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from fleetspeak.cli.admin import identifiers, lists, times
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Report, Row
from fleetspeak.cli.admin.times import Times
from fleetspeak.core.history import InconsistentHistory, PastContact, Summary, summarize
from fleetspeak.ids import ClientId
from fleetspeak.pb import admin, operator

COLUMNS = (
    Column("time", "Time", 24),
    Column("address", "Address", 21),
    Column("sent_nonce", "Nonce sent", 16),
    Column("received_nonce", "received", 16),
)


def row_of(contact: admin.ClientContact) -> Row:
    """A contact's row."""
    return {
        "time": contact.timestamp if contact.HasField("timestamp") else None,
        "address": contact.observed_address,
        "sent_nonce": f"{contact.sent_nonce:016x}",
        "received_nonce": f"{contact.received_nonce:016x}",
    }


def _one_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client_id")


def _id_and_limit(parser: argparse.ArgumentParser) -> None:
    _one_id(parser)
    parser.add_argument("limit", nargs="?", default="0", help="most contacts to show; 0 shows all")


def _client_id(text: str) -> ClientId:
    return identifiers.client_id(text, "Unable to parse {text} as client id: {why}")


def _contacts(link: Link, client_id: ClientId) -> list[admin.ClientContact]:
    request = admin.ListClientContactsRequest(client_id=client_id)
    return list(link.call("ListClientContacts", link.admin.ListClientContacts, request).contacts)


def _list_upstream(link: Link, arguments: Arguments) -> Listing:
    client_id = _client_id(arguments.client_id)
    if not re.fullmatch(r"[+-]?[0-9]+", arguments.limit):
        raise CommandFailed(f"Unable to parse {arguments.limit} as a limit", "a limit is a whole number; 0 shows all")
    contacts = sorted(_contacts(link, client_id), key=lambda one: times.to_nanoseconds(one.timestamp), reverse=True)
    limit = int(arguments.limit)
    wanted = contacts[:limit] if limit > 0 else contacts

    def lines(rows: list[Row], times: Times) -> Iterator[str]:
        yield f"Found {len(contacts)} contacts."
        yield f"{'Timestamp:':<23} Observed IP:"
        for row in rows:
            yield f"{times.upstream(row['time'])} {row['address']}"

    return Listing(COLUMNS, map(row_of, wanted), "No contacts found.", lines)


def _analyse(link: Link, arguments: Arguments) -> Report:
    contacts = _contacts(link, _client_id(arguments.client_id))
    if not contacts:
        return Report(lambda times: ["No contacts found."])
    for contact in contacts:
        if not contact.HasField("timestamp"):
            raise CommandFailed("Error creating summary: a contact has no time")
    try:
        summary = summarize(
            PastContact(times.to_nanoseconds(one.timestamp), one.sent_nonce, one.received_nonce, one.observed_address)
            for one in contacts
        )
    except InconsistentHistory as error:
        at = ", ".join(Times().in_full(times.from_nanoseconds(time)) for time in error.times)
        raise CommandFailed(f"Error creating summary: {error}" + (f": {at}" if at else "")) from None
    return Report(lambda style: _summary_lines(summary, style), _summary_record(summary))


def _summary_lines(summary: Summary, style: Times) -> Iterator[str]:
    yield "Raw Summary:"
    yield f"  First Recorded Contact: {style.in_full(times.from_nanoseconds(summary.first_ns))}"
    yield f"  Last Recorded Contact: {style.in_full(times.from_nanoseconds(summary.last_ns))}"
    yield f"  Contact Count: {summary.contacts}"
    yield f"  Observed IP Count: {summary.hosts}"
    yield f"  Split Points: {summary.split_points}"
    yield f"  Splits: {summary.splits}"
    yield f"  Skips: {summary.skips}"
    if summary.splits:
        yield (
            f"This client appears to have be restored {summary.splits} times from {summary.split_points} "
            "different backup images."
        )
    if summary.skips > summary.splits:
        yield (f"Observed {summary.skips} Skips, but only {summary.splits} splits. The machine may have been cloned.")


def _summary_record(summary: Summary) -> Row:
    return {
        "first_contact": times.from_nanoseconds(summary.first_ns),
        "last_contact": times.from_nanoseconds(summary.last_ns),
        "contacts": summary.contacts,
        "addresses": summary.hosts,
        "split_points": summary.split_points,
        "splits": summary.splits,
        "skips": summary.skips,
    }


def _declare_list(parser: argparse.ArgumentParser) -> None:
    _one_id(parser)
    lists.declare_limit(parser)


def _list(link: Link, arguments: Arguments) -> Listing:
    request = operator.ListContactsRequest(client_id=identifiers.one_client_id(arguments.client_id))
    instead = "`fleetspeak-admin listcontacts CLIENT_ID` fetches all at once"
    found = lists.paged(link, "ListContacts", link.operator.ListContacts, request, "contacts", arguments.limit, instead)
    return Listing(COLUMNS, map(row_of, found), "No contacts found.")


COMMANDS = (
    Command("contacts", "list the contacts of a client, the newest first", _list, _declare_list),
    Command("history", "say whether a client was restored from a backup, or cloned", _analyse, _one_id),
    Command("listcontacts", "list the contacts of a client, the newest first", _list_upstream, _id_and_limit),
    Command("analysehistory", "say whether a client was restored from a backup, or cloned", _analyse, _one_id),
)
