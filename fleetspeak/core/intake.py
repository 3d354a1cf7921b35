"""Which messages of a client the server takes in, and what it then writes into them."""

from __future__ import annotations

from collections.abc import Mapping

from fleetspeak.ids import ClientId, message_id_of
from fleetspeak.pb import common

_SECOND = 1_000_000_000


def take_in(message: common.Message, client_id: ClientId, tags: Mapping[str, str], now_ns: int) -> str | None:
    """Why this message can never be processed; or None, when it now says what the server knows of it.

    A client has no word in who sent a message, its id, when it came, or what became of it: these are overwritten.
    """
    if not message.destination.service_name:
        return "no destination service"
    if message.destination.client_id:
        return "the destination is a client"
    if not message.source.service_name:
        return "no source service"
    if not message.source_message_id:
        return "no source_message_id"
    message.source.client_id = client_id
    message.message_id = message_id_of(client_id, message.source.service_name, message.source_message_id)
    message.creation_time.seconds, message.creation_time.nanos = divmod(now_ns, _SECOND)
    message.ClearField("result")
    message.ClearField("is_blocklisted_source")
    message.ClearField("validation_info")
    if tags:
        message.validation_info.tags.update(tags)
    return None
