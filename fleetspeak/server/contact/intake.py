"""Messages from a client enter the system: the odd ones are left out, the others get their place in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twisted.logger import Logger

from fleetspeak import ids
from fleetspeak.core.intake import take_in
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.pb import common

MAX_NAME = 128
"""Characters of a service name or message type, as the database's columns hold them."""

log = Logger()


def take_in_all(
    messages: Iterable[common.Message], client_id: ClientId, tags: Mapping[str, str], now_ns: int
) -> list[common.Message]:
    """Those of `messages` that are to be processed, changed to what the server knows of them.

    A message that can never be processed is dropped, with one log line for all of a contact: refusing the contact
    would only make the client send it again, for ever.  A message that is there twice counts once.
    """
    taken: dict[MessageId, common.Message] = {}
    dropped: list[str] = []
    for message in messages:
        reason = _name_too_long(message) or take_in(message, client_id, tags, now_ns)
        if reason is None:
            taken.setdefault(MessageId(message.message_id), message)
        else:
            dropped.append(reason)
    if dropped:
        log.error(
            "Dropping {count} invalid message(s) from [{client_id}]: {reason}",
            count=len(dropped),
            client_id=ids.show(client_id),
            reason="; ".join(sorted(set(dropped))),
        )
    return list(taken.values())


def _name_too_long(message: common.Message) -> str | None:
    for what, name in (
        ("source service name", message.source.service_name),
        ("destination service name", message.destination.service_name),
        ("message type", message.message_type),
    ):
        if len(name) > MAX_NAME:
            return f"{what} longer than {MAX_NAME} characters"
    return None
