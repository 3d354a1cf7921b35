"""Who a message is from, and whether it can be delivered: the rules every message in the client goes by."""

from __future__ import annotations

import secrets

from fleetspeak.ids import SOURCE_MESSAGE_ID_SIZE, ClientId, show
from fleetspeak.pb import common

SYSTEM = "system"
"""The service that is the client itself, and its counterpart on the server."""

RESERVED_NAMES = frozenset({"", SYSTEM, "client"})
"""No configured service may have one of these names."""


def stamp(message: common.Message, client_id: ClientId, service: str) -> None:
    """Make `service` on this client the source, and the message distinguishable from all others."""
    message.source.client_id = client_id
    message.source.service_name = service
    if not message.source_message_id:
        message.source_message_id = secrets.token_bytes(SOURCE_MESSAGE_ID_SIZE)


def misaddressed(message: common.Message, client_id: ClientId) -> str:
    """What is wrong with the destination of a message on client `client_id`; empty if nothing is."""
    destination = message.destination
    if not destination.service_name:
        return f"destination must have ServiceName, got: client_id={show(destination.client_id)}"
    if destination.client_id and destination.client_id != client_id:
        return f"cannot send directly to client {show(destination.client_id)}"
    return ""
