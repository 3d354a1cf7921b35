"""Messages: sending one, what became of it, what waits, and what is given up."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.cli.admin import identifiers, lists, payload
from fleetspeak.cli.admin.command import Arguments, Command
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.cli.admin.link import Link
from fleetspeak.cli.admin.output import Column, Listing, Report, Row
from fleetspeak.core.retrytimes import DEAD
from fleetspeak.ids import MESSAGE_ID_SIZE, show
from fleetspeak.pb import admin, common, operator

INSTEAD = (
    "`fleetspeak-admin messages pending CLIENT_ID` shows what waits for a client, `messages status ID` one message"
)

BATCH = 500
"""Ids in one request."""

STATUS_COLUMNS = (
    Column("message_id", "Message ID", 64, whole=True),
    Column("state", "State", 9),
    Column("created", "Created", 24),
    Column("processed", "Processed", 24),
    Column("reason", "Reason"),
)
COLUMNS = (
    Column("message_id", "Message ID", 64, whole=True),
    Column("state", "State", 9),
    Column("created", "Created", 24),
    Column("source", "From", 24),
    Column("destination", "To", 24),
    Column("message_type", "Type", 20),
    Column("attempts", "Tries", 5, right=True),
    Column("due", "Due", 24),
    Column("size", "Bytes", 7, right=True),
    Column("reason", "Reason"),
)
PENDING_COLUMNS = (
    Column("message_id", "Message ID", 64, whole=True),
    Column("created", "Created", 24),
    Column("source", "From", 24),
    Column("destination", "To", 24),
    Column("message_type", "Type", 20),
    Column("size", "Bytes", 7, right=True),
)


def declare_filter(parser: argparse.ArgumentParser) -> None:
    """For `filter_of`."""
    parser.add_argument("--client", metavar="CLIENT_ID", help="only from or to this client")
    parser.add_argument("--service", default="", metavar="NAME", help="only from or to this service")
    parser.add_argument("--type", default="", metavar="TYPE", help="only of this message type")
    lists.declare_state(parser, operator.MessageState)
    lists.declare_span(parser, "a creation time")


def filter_of(arguments: Arguments) -> operator.MessageFilter:
    """Raises CommandFailed."""
    return operator.MessageFilter(
        client_id=identifiers.one_client_id(arguments.client) if arguments.client else b"",
        service=arguments.service,
        message_type=arguments.type,
        state=lists.state(operator.MessageState, arguments.state),
        created=lists.span(arguments),
    )


def _address(address: common.Address) -> str:
    return f"{address.service_name}@{show(address.client_id)}" if address.client_id else address.service_name


# ---- one message


def _declare_insert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--client", metavar="CLIENT_ID", help="the client it is for; without, a service of the server")
    parser.add_argument("--service", required=True, metavar="NAME", help="the service it is for")
    parser.add_argument(
        "--from", required=True, dest="source", metavar="SERVICE", help="the server's service that sends"
    )
    parser.add_argument("--type", default="", metavar="TYPE", help="message type")
    parser.add_argument("--id", metavar="ID", help="message id: what is there already is not stored again")
    parser.add_argument("--background", action="store_true", help="do not take it for activity")
    payload.declare(parser)


def _insert(link: Link, arguments: Arguments) -> Report:
    message_id = identifiers.message_id(arguments.id) if arguments.id else secrets.token_bytes(MESSAGE_ID_SIZE)
    message = common.Message(
        message_id=message_id,
        source=common.Address(service_name=arguments.source),
        destination=common.Address(service_name=arguments.service),
        message_type=arguments.type,
        background=arguments.background,
        data=payload.pack(arguments),
    )
    if arguments.client:
        message.destination.client_id = identifiers.one_client_id(arguments.client)
    again = f"it may be stored all the same; with --id {show(message_id)} a second try stores it only once"
    with link.perhaps_done(again):
        link.call("InsertMessage", link.admin.InsertMessage, message)
    return Report(lambda times: [show(message_id)], {"message_id": message_id})


def _ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message_ids", nargs="+", metavar="message_id")


def _status(link: Link, arguments: Arguments) -> Listing:
    message_ids = [identifiers.message_id(text) for text in arguments.message_ids]

    def rows() -> Iterator[Row]:
        for message_id in message_ids:
            request = admin.GetMessageStatusRequest(message_id=message_id)
            status = link.call("GetMessageStatus", link.admin.GetMessageStatus, request)
            yield _status_row(message_id, status)

    return Listing(STATUS_COLUMNS, rows(), "")


def _status_row(message_id: bytes, status: admin.GetMessageStatusResponse) -> Row:
    if not status.HasField("creation_time"):
        state = "unknown"
    elif not status.HasField("result"):
        state = "pending"
    else:
        dead = status.result.failed_reason.startswith(DEAD)
        state = ("dead" if dead else "failed") if status.result.failed else "processed"
    return {
        "message_id": message_id,
        "state": state,
        "created": status.creation_time if status.HasField("creation_time") else None,
        **_result(status.result if status.HasField("result") else None),
    }


def _result(result: common.MessageResult | None) -> dict[str, str | Timestamp | None]:
    if result is None:
        return {"processed": None, "reason": ""}
    return {
        "processed": result.processed_time if result.HasField("processed_time") else None,
        "reason": result.failed_reason,
    }


# ---- what waits for clients


def _clients(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client_ids", nargs="+", metavar="client_id")


def _declare_pending(parser: argparse.ArgumentParser) -> None:
    _clients(parser)
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="leave these out; needs --limit")
    parser.add_argument("--data", action="store_true", help="fetch the payloads too, for --json")
    lists.declare_limit(parser)


def _pending(link: Link, arguments: Arguments) -> Listing:
    if arguments.offset < 0 or (arguments.offset and not arguments.limit):
        raise CommandFailed("--offset needs --limit, and is 0 or more")
    request = admin.GetPendingMessagesRequest(
        client_ids=_client_ids(arguments),
        offset=arguments.offset,
        limit=arguments.limit,
        want_data=arguments.data,
    )
    reply = link.call("GetPendingMessages", link.admin.GetPendingMessages, request)
    return Listing(PENDING_COLUMNS, map(_pending_row, reply.messages), "No messages are pending.")


def _pending_row(message: common.Message) -> Row:
    """Of a message that waits; without its payload its size is not known."""
    has_data = message.HasField("data")
    return {
        "message_id": message.message_id,
        "created": message.creation_time if message.HasField("creation_time") else None,
        "source": _address(message.source),
        "destination": _address(message.destination),
        "message_type": message.message_type,
        "size": len(message.data.value) if has_data else None,
        "data_type": message.data.type_url if has_data else None,
        "data": message.data.value if has_data else None,
    }


def _count(link: Link, arguments: Arguments) -> Report:
    request = admin.GetPendingMessageCountRequest(client_ids=_client_ids(arguments))
    count = link.call("GetPendingMessageCount", link.admin.GetPendingMessageCount, request).count
    return Report(lambda times: [str(count)], {"pending": count})


def _delete_pending(link: Link, arguments: Arguments) -> Report:
    client_ids = _client_ids(arguments)
    request = admin.DeletePendingMessagesRequest(client_ids=client_ids)
    link.call("DeletePendingMessages", link.admin.DeletePendingMessages, request)
    return Report(
        lambda times: [f"Pending messages of {len(client_ids)} clients are deleted."], {"client_ids": client_ids}
    )


def _client_ids(arguments: Arguments) -> list[bytes]:
    return [identifiers.one_client_id(text) for text in arguments.client_ids]


# ---- all messages


def _declare_list(parser: argparse.ArgumentParser) -> None:
    declare_filter(parser)
    lists.declare_limit(parser)


def _list(link: Link, arguments: Arguments) -> Listing:
    request = operator.ListMessagesRequest(filter=filter_of(arguments))
    return Listing(COLUMNS, map(_row, _found(link, request, arguments.limit)), "No messages found.")


def _found(link: Link, request: operator.ListMessagesRequest, limit: int) -> Iterator[operator.MessageEntry]:
    return lists.paged(link, "ListMessages", link.operator.ListMessages, request, "messages", limit, INSTEAD)


def _row(entry: operator.MessageEntry) -> Row:
    return {
        "message_id": entry.message_id,
        "state": lists.state_name(operator.MessageState, entry.state),
        "created": entry.creation_time if entry.HasField("creation_time") else None,
        "source": _address(entry.source),
        "destination": _address(entry.destination),
        "message_type": entry.message_type,
        "attempts": entry.attempts,
        "due": entry.due_time if entry.HasField("due_time") else None,
        "size": entry.payload_size,
        **_result(entry.result if entry.HasField("result") else None),
    }


def _declare_cancel(parser: argparse.ArgumentParser) -> None:
    _ids(parser)
    parser.add_argument("--reason", default="", metavar="TEXT", help="what senders are told")


def _cancel(link: Link, arguments: Arguments) -> Report:
    message_ids = [identifiers.message_id(text) for text in arguments.message_ids]
    cancelled = 0
    for batch in _batches(message_ids):
        request = operator.CancelMessagesRequest(message_ids=batch, reason=arguments.reason)
        instead = "`fleetspeak-admin messages delete-pending CLIENT_ID` ends all that waits for a client"
        cancelled += link.call("CancelMessages", link.operator.CancelMessages, request, instead).cancelled
    return Report(lambda times: [f"Cancelled {cancelled} of {len(message_ids)} messages."], {"cancelled": cancelled})


def _declare_retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message_ids", nargs="*", metavar="message_id")
    parser.add_argument("--all", action="store_true", help="all dead messages, or those that the options below select")
    parser.add_argument("--service", default="", metavar="NAME", help="only from or to this service")
    parser.add_argument("--type", default="", metavar="TYPE", help="only of this message type")


def _retry(link: Link, arguments: Arguments) -> Report:
    if bool(arguments.message_ids) == arguments.all:
        raise CommandFailed("say which dead messages: their ids, or --all")
    message_ids: Iterable[bytes] = [identifiers.message_id(text) for text in arguments.message_ids]
    if arguments.all:
        dead = operator.MessageFilter(service=arguments.service, message_type=arguments.type, state=operator.DEAD)
        # All of them are looked up first: what is retried leaves the list.
        message_ids = [one.message_id for one in _found(link, operator.ListMessagesRequest(filter=dead), 0)]
    retried = 0
    for batch in _batches(list(message_ids)):
        request = operator.RetryMessagesRequest(message_ids=batch)
        retried += link.call("RetryMessages", link.operator.RetryMessages, request, INSTEAD).retried
    return Report(lambda times: [f"{retried} messages are due again."], {"retried": retried})


def _batches(message_ids: Sequence[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(message_ids), BATCH):
        yield list(message_ids[start : start + BATCH])


COMMANDS = (
    Command(
        "insert", "send a message to a client, or to a service of the server; prints its id", _insert, _declare_insert
    ),
    Command("status", "say what became of messages", _status, _ids),
    Command("pending", "list what waits for clients", _pending, _declare_pending),
    Command("count", "count what waits for clients", _count, _clients),
    Command("delete-pending", "end all that waits for clients, as failed", _delete_pending, _clients),
    Command("list", "list messages, the newest first", _list, _declare_list),
    Command("cancel", "end pending messages, as failed", _cancel, _declare_cancel),
    Command("retry", "make dead messages due again", _retry, _declare_retry),
)
