"""What every connection of a service's process says: who it is, that it is alive, and what may be sent."""

from __future__ import annotations

import os

from fleetspeak.pb import channel, common
from fleetspeak.wire import channelframes

SYSTEM = "system"
"""The service that is the client itself."""


def startup_message(version: str | None) -> common.Message:
    """Who this process is."""
    message = _to_system("StartupData")
    message.data.Pack(channel.StartupData(pid=os.getpid(), version=version or ""))
    return message


def heartbeat_message() -> common.Message:
    """It is alive."""
    return _to_system("Heartbeat")


def want_acks_message() -> common.Message:
    """It wants to be told how many of its messages are safe."""
    return _to_system("WantAcks")


def check_sendable(message: common.Message) -> None:
    """Raises ValueError: no `fleetspeak.Message`, or addressed to the client itself."""
    if not isinstance(message, common.Message):
        raise ValueError("Send requires a fleetspeak.Message")
    if message.destination.service_name == SYSTEM:
        raise ValueError('Only predefined messages can have destination.service_name == "system"')


def body_of(message: common.Message) -> bytes:
    """A service's message as the channel carries it.

    @raise ValueError: no `fleetspeak.Message`, over 2 MiB, or addressed to the client itself.
    """
    check_sendable(message)
    body = message.SerializeToString()
    if len(body) > channelframes.MAX_MESSAGE:
        raise ValueError(
            f"Serialized message too large, size must be at most {channelframes.MAX_MESSAGE}, got {len(body)}"
        )
    return body


def frame_of(message: common.Message) -> bytes:
    """One of the messages above as a frame of the channel."""
    return channelframes.encode(message.SerializeToString())


def _to_system(message_type: str) -> common.Message:
    return common.Message(message_type=message_type, destination=common.Address(service_name=SYSTEM))
