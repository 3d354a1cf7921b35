"""What a contact takes along for the client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fleetspeak import ids
from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.records import MAX_MESSAGES_PER_CONTACT, Claim
from fleetspeak.server.contact.seams import Broadcaster
from fleetspeak.server.contact.session import Session

SYSTEM = "system"
DIE = "Die"
REKEY_REQUEST = "RekeyRequest"

MANY_BYTES = 8 * 1024 * 1024
"""Stores limit the size of a claim to twice this; a message that does not fit any more has at most 2 MiB."""


def rekey_request(client_id: ClientId, now_ns: int) -> common.Message:
    """What a blacklisted client is told: to come again as someone else."""
    message = common.Message(
        message_id=ids.random_message_id(),
        source=common.Address(service_name=SYSTEM),
        destination=common.Address(client_id=client_id, service_name=SYSTEM),
        message_type=REKEY_REQUEST,
    )
    message.creation_time.FromNanoseconds(now_ns)
    return message


def claim_for(session: Session) -> Claim:
    """What may be taken for this client now, as far as its tokens go."""
    return Claim(session.client_id, tokens=session.tokens.offer())


def spend(session: Session, messages: Sequence[common.Message]) -> None:
    """Account for `messages`, which were claimed.  A ``Die`` costs no token: the client takes no more after it."""
    session.tokens.spend(Counter(message.destination.service_name for message in messages if not _is_die(message)))


async def with_broadcasts(
    broadcaster: Broadcaster, session: Session, messages: Sequence[common.Message]
) -> Sequence[common.Message]:
    """`messages`, and the broadcasts that this client has not got yet, for which it has tokens as well."""
    client_id, labels = session.client_id, session.client.labels
    if not broadcaster.may_have(client_id, labels):
        return messages
    sent = await broadcaster.take(client_id, labels, session.tokens.limits(), session.contact_id)
    if not sent:
        return messages
    spend(session, sent)
    return [*messages, *sent]


def may_be_more(messages: Sequence[common.Message]) -> bool:
    """Whether a claim that gave `messages` may have left some behind, because of a limit on their number or size."""
    if len(messages) >= MAX_MESSAGES_PER_CONTACT:
        return True
    return sum(len(message.data.value) for message in messages) >= MANY_BYTES


def _is_die(message: common.Message) -> bool:
    return message.message_type == DIE and message.destination.service_name == SYSTEM
