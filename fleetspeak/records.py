"""What crosses the borders between packages as plain values: frozen, slotted, and without behaviour.

Times are integers of nanoseconds since the Unix epoch unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.ids import NO_CLIENT, ClientId, MessageId
from fleetspeak.pb import broadcasts, common

MAX_MESSAGES_PER_CONTACT = 100
"""Most messages in one contact data, in either direction; servers refuse more."""


class Label(NamedTuple):
    """A tag on a client; `service` owns it (``client`` for what the client states about itself)."""

    service: str
    label: str


@dataclass(frozen=True, slots=True)
class ClientData:
    """What a server knows of a client before it speaks."""

    key: bytes
    """DER SubjectPublicKeyInfo."""
    labels: frozenset[Label] = frozenset()
    blacklisted: bool = False


@dataclass(frozen=True, slots=True)
class Contact:
    """One exchange that carries contact data, as it is recorded.  The store sets its time."""

    client_id: ClientId
    sent_nonce: int
    received_nonce: int
    address: str
    """The peer as ``ip:port``, IPv6 in brackets."""
    clock: Timestamp | None = None
    """The client's own clock, if it told it."""
    streaming_to: str = ""
    """Where a notification reaches the server that holds the client's stream; empty for a poll."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Take due messages for a client: at most `limit`, and per destination service at most its tokens.

    A store may take fewer, to bound the memory of a claim.  A ``Die`` for service ``system`` is processed by being
    taken: who dies cannot acknowledge.
    """

    client_id: ClientId
    limit: int = MAX_MESSAGES_PER_CONTACT
    tokens: Mapping[str, int] | None = None
    """None: no accounting.  Otherwise a service that is not in the map gets nothing."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """All that one contact, or one record of a stream, writes and takes: one transaction, in this order.

    Enrol `new_client` unless it is there already; record `contact` (or, when it is None, go on with
    `contact_id`); store `messages` and link them to the contact; carry out `claim` and link what it took.
    """

    messages: Sequence[common.Message] = ()
    contact: Contact | None = None
    contact_id: str = ""
    new_client: ClientData | None = None
    """Only together with `contact`, whose client_id it belongs to."""
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The outcome of an `Exchange`."""

    contact_id: str
    messages: Sequence[common.Message] = ()
    """What the claim took, oldest first, with payloads."""


@dataclass(frozen=True, slots=True)
class Ack:
    """A client confirms messages: those without a result, addressed to it, become processed.

    A ``RekeyRequest`` of service ``system`` may be confirmed by any client, since the one that was asked has a
    new id by then.  Unknown ids, other clients' messages and repeats are passed over.
    """

    client_id: ClientId
    message_ids: Sequence[MessageId]


DAY_NS = 24 * 60 * 60 * 10**9


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How long messages for server services are tried before they are dead letters.

    The time of both bounds is that of a look for overdue messages: a message in hand is never given up.
    """

    max_delay_ns: int = DAY_NS
    """Most time between two tries; at least `MIN_RETRY_DELAY_NS`."""
    max_age_ns: int | None = None
    """Since its creation a message that was tried again at least once is given up after this time; None: never."""
    max_attempts: int | None = None
    """A message is given up after so many tries, the first one included; None: never.  With less than 2 a dead letter
    that is to be retried would die untried."""


MIN_RETRY_DELAY_NS = 2 * 60 * 10**9
"""Least that `RetryLimits.max_delay_ns` may be: the first try again comes after one to two minutes."""

NO_LIMITS = RetryLimits()
"""Messages are tried for ever, and at least once a day, which is upstream's behaviour but for the day."""


@dataclass(frozen=True, slots=True)
class ResultUpdate:
    """Set the result of one message, whatever it was before, and end its being pending."""

    message_id: MessageId
    result: common.MessageResult
    destination: ClientId = NO_CLIENT


class ClientStream(NamedTuple):
    """The stream that a client's last contact began."""

    address: str
    """Where a notification reaches the server that holds it, if it is still there."""
    since_ns: int
    """When it began."""


class ContactEntry(NamedTuple):
    """A recorded contact, for listings."""

    row: int
    """Grows with each contact; where to go on with the next page."""
    contact: Contact
    time_ns: int


@dataclass(frozen=True, slots=True)
class ClientPoll:
    """One exchange of contact data with a client, as `fleetspeak.interfaces.IServerStats` hears of it."""

    type: str
    """``POLL``; ``STREAM_START``; ``STREAM_FROM_CLIENT`` or ``STREAM_TO_CLIENT`` for a further record of a stream."""
    status: int
    """The HTTP status, or the one it would have if it was a request of its own."""
    client_id: ClientId | None = None
    """None if it is not known who it is."""
    seconds: float = 0.0
    """How long all of it took."""
    read_seconds: float = 0.0
    read_bytes: int = 0
    write_seconds: float = 0.0
    write_bytes: int = 0
    cache_hit: bool = False
    """The client was known without asking the store."""


class FileStat(NamedTuple):
    """What there is to know of a stored file without reading it."""

    modified_ns: int
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with its content."""

    modified_ns: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that a client brought to its disk."""

    size: int
    """Bytes."""
    modified: int | None
    """Seconds since the Unix epoch, as the server dates it; None if it does not."""


UNLIMITED = 2**63 - 1
"""The limit of a broadcast that goes to any number of clients; 0 is that of one that is disabled."""


@dataclass(frozen=True, slots=True)
class ActiveBroadcast:
    """A broadcast that may still be sent."""

    broadcast: broadcasts.Broadcast
    sent: int
    """As far as servers have accounted for it."""
    limit: int
    max_errors: int = 0
    """So many clients may fail; 0: any number."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """A server's share of a broadcast's limit."""

    allocation_id: bytes
    limit: int
    expiry_ns: int
    """Nothing is sent on it from then on."""


@dataclass(frozen=True, slots=True)
class BroadcastSend:
    """Send a broadcast to a client: store `message`, count it, and remember that the client has this broadcast."""

    message: common.Message
    broadcast_id: bytes
    allocation_id: bytes = b""
    """Empty for an unlimited broadcast."""
    contact_id: str = ""
    """The contact that takes the message along."""


@dataclass(frozen=True, slots=True)
class AuditCall:
    """A call of the admin API that begins: what the audit trail knows of it before it is carried out."""

    caller: str
    """The name of a token or of a certificate's entry, or ``anonymous``."""
    address: str
    """The peer as ``ip:port``, IPv6 in brackets; ``unix`` for a local socket."""
    role: str
    """``viewer``, ``operator`` or ``admin``; empty: what was presented is nobody's."""
    method: str
    """Full name, such as ``fleetspeak.server.Admin/InsertMessage``."""
    request: str
    """Ids, names and sizes; never payloads."""


@dataclass(frozen=True, slots=True)
class AuditEnd:
    """How a call of the admin API ended."""

    number: int
    """Of its entry."""
    outcome: str
    """The name of the gRPC status."""
    detail: str
    """What the caller was told; empty if all was well."""
    duration_ns: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry of the audit trail."""

    number: int
    """Ascending, with gaps."""
    time_ns: int
    """When it was written, which is before the call was carried out."""
    call: AuditCall
    outcome: str = ""
    """Empty: the call runs, or its end was never recorded."""
    detail: str = ""
    duration_ns: int = 0


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted: all that fit every field."""

    start_ns: int | None = None
    """Entries of this time, and later ones."""
    end_ns: int | None = None
    """Entries of earlier times only."""
    caller: str = ""
    """Empty: any."""
    method: str = ""
    """Empty: any."""
    after: int = 0
    """Entries with higher numbers only."""
    before: int | None = None
    """Entries with lower numbers only."""
    newest_first: bool = False
    """By descending number; otherwise by ascending number."""


class Prunable(StrEnum):
    """What is deleted when it is old enough.  The values are those of the option ``--keep``, but for the last one."""

    CONTACTS = "contacts"
    """Made longer ago; with the links to their messages."""
    RESOURCE_USAGE = "resource-usage"
    """Stored longer ago."""
    MESSAGES = "messages"
    """Those with a result, that were created and got it longer ago."""
    PENDING_MESSAGES = "pending-messages"
    """Those without a result, that were created longer ago.  Nobody ever gets them any more."""
    BROADCASTS = "broadcasts"
    """Those that expired, or were seen to have ended, longer ago; with their shares, and the note who was sent them."""
    CLIENTS = "clients"
    """Those whose last contact was longer ago, and that are not blacklisted; with all that was stored of them but
    messages."""
    AUDIT = "audit"
    """Entries of the audit trail that were written longer ago."""
    MESSAGES_OF_CLIENTS = "messages-of-clients"
    """As `MESSAGES`, but only those from or to clients that there are not (any more)."""


@dataclass(frozen=True, slots=True)
class Prune:
    """Delete a part of what is older than a time."""

    kind: Prunable
    before_ns: int
    position: str = ""
    """Where an earlier part ended; empty: at the beginning."""
    rows: int = 500
    """About how many are deleted at most; ten times as many are looked at."""
    dry_run: bool = False
    """Count, and delete nothing."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """The outcome of a `Prune`."""

    rows: Mapping[str, int]
    """How many rows were deleted, or would be, by table; without zeros."""
    position: str | None
    """Where to go on; None: that was all."""
