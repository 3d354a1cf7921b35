"""What operators look for in a store, and what they find: plain values, as those in `fleetspeak.records`.

Times are integers of nanoseconds since the Unix epoch unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from fleetspeak.ids import NO_CLIENT, ClientId
from fleetspeak.pb import broadcasts, common
from fleetspeak.records import FileStat, Label


class Span(NamedTuple):
    """A span of time: start <= time < end; None does not bound it."""

    start_ns: int | None = None
    end_ns: int | None = None


ALWAYS = Span()


class Flag(Enum):
    """Which records by a flag that they have."""

    ANY = 0
    ONLY = 1
    """Those that have it."""
    NONE = 2
    """Those that have it not."""


@dataclass(frozen=True, slots=True)
class ClientFilter:
    """Clients that fit every field."""

    labels: tuple[Label, ...] = ()
    """They carry all of these."""
    last_contact: Span = ALWAYS
    blacklisted: Flag = Flag.ANY


class ClientCounts(NamedTuple):
    """How many clients there are."""

    known: int
    blacklisted: int
    in_contact: int
    """Since the time that was asked for."""


class MessageState(Enum):
    """What has become of a message; the numbers are those of ``fleetspeak.operator.MessageState``."""

    ANY = 0
    WAITING = 1
    """Pending, and never taken from the store."""
    SENT = 2
    """Pending, and taken from the store at least once."""
    PROCESSED = 3
    FAILED = 4
    DEAD = 5
    """Failed because it was tried for as long as it may be; its payload is kept."""


PENDING = (MessageState.WAITING, MessageState.SENT)


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Messages that fit every field."""

    client_id: ClientId = NO_CLIENT
    """From or to this client; none: any."""
    service: str = ""
    """From or to this service; empty: any."""
    message_type: str = ""
    state: MessageState = MessageState.ANY
    created: Span = ALWAYS


class MessageKey(NamedTuple):
    """The place of a message in the order of creation."""

    seconds: int
    nanos: int
    message_id: bytes


@dataclass(frozen=True, slots=True)
class ListedMessage:
    """A message as it is kept."""

    message: common.Message
    """Without payload."""
    state: MessageState
    attempts: int = 0
    """How often it was taken from the store; 0 for what is processed."""
    due_ns: int | None = None
    """When it is taken next; None for what is not pending."""
    payload_size: int = 0
    """Bytes, while it is kept."""

    @property
    def key(self) -> MessageKey:
        """Its place."""
        created = self.message.creation_time
        return MessageKey(created.seconds, created.nanos, self.message.message_id)


@dataclass(frozen=True, slots=True)
class MessageCount:
    """How many messages of one kind there are."""

    service: str
    """That they are to."""
    to_client: bool
    message_type: str
    state: MessageState
    count: int
    oldest_seconds: int
    """Creation time of the oldest one, in seconds since the Unix epoch."""


class BroadcastState(Enum):
    """What is the matter with a broadcast; the numbers are those of ``fleetspeak.operator.BroadcastState``."""

    ANY = 0
    ACTIVE = 1
    PAUSED = 2
    COMPLETE = 3
    """Everybody within its limit was sent it."""
    EXPIRED = 4
    DISABLED = 5
    STOPPED = 6
    """Disabled, and as many clients failed with it as make it stop."""


@dataclass(frozen=True, slots=True)
class ListedBroadcast:
    """A broadcast and its account."""

    broadcast: broadcasts.Broadcast
    """Without payload."""
    limit: int
    """Also of one that is paused; 0 if it is disabled."""
    sent: int
    allocated: int
    """Held by servers, and not sent yet."""
    is_paused: bool = False
    errors: int = 0
    """Clients that failed with it."""
    max_errors: int = 0

    def state(self, now_ns: int) -> BroadcastState:
        """Its state at a time."""
        if not self.limit:
            stopped = 0 < self.max_errors <= self.errors
            return BroadcastState.STOPPED if stopped else BroadcastState.DISABLED
        if self.sent >= self.limit:
            return BroadcastState.COMPLETE
        expiry = self.broadcast.expiration_time
        if self.broadcast.HasField("expiration_time") and expiry.seconds * 10**9 + expiry.nanos <= now_ns:
            return BroadcastState.EXPIRED
        return BroadcastState.PAUSED if self.is_paused else BroadcastState.ACTIVE


class ListedFile(NamedTuple):
    """A file of a service."""

    service: str
    name: str
    stat: FileStat
