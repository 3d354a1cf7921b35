"""Ids as people write them: hexadecimal of either case, with ``0x`` if they like."""

from __future__ import annotations

from fleetspeak import ids
from fleetspeak.cli.admin.failure import CommandFailed
from fleetspeak.ids import ClientId, MessageId

BROADCAST_ID_SIZE = 8

_CLIENTS = "a client id is 16 hexadecimal digits, such as 0123456789abcdef; `fleetspeak-admin listclients` lists them"
_MESSAGES = "a message id is 64 hexadecimal digits; `fleetspeak-admin messages list` lists them"
_BROADCASTS = (
    "a broadcast id is 16 hexadecimal digits, such as 0123456789abcdef; "
    "`fleetspeak-admin listactivebroadcasts` lists them"
)


def client_id(text: str, problem: str = "{text} is no client id: {why}") -> ClientId:
    """Read one; empty and ``nil`` give the empty id, as with upstream's tool.

    @param problem: how it is told if it cannot be read; upstream's words differ from command to command.
    """
    try:
        return ids.parse_client_id(_digits(text))
    except ValueError as error:
        raise CommandFailed(problem.format(text=text, why=error), _CLIENTS) from None


def one_client_id(text: str) -> ClientId:
    """Likewise, and not empty."""
    found = client_id(text)
    if not found:
        raise CommandFailed("the empty client id is no client's", _CLIENTS)
    return found


def message_id(text: str) -> MessageId:
    """Read one; not empty."""
    try:
        found = ids.parse_message_id(_digits(text))
    except ValueError as error:
        raise CommandFailed(f"{text} is no message id: {error}", _MESSAGES) from None
    if not found:
        raise CommandFailed("the empty message id is no message's", _MESSAGES)
    return found


def broadcast_id(text: str, problem: str = "{text} is no broadcast id: {why}") -> bytes:
    """Read one; not empty."""
    digits = _digits(text)
    if len(digits) != 2 * BROADCAST_ID_SIZE:
        raise CommandFailed(problem.format(text=text, why="BroadcastID must be 16 characters"), _BROADCASTS)
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise CommandFailed(problem.format(text=text, why="BroadcastID must be hexadecimal"), _BROADCASTS) from None


def _digits(text: str) -> str:
    return text[2:] if text[:2] in ("0x", "0X") else text
