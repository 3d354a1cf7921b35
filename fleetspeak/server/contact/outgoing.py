"""What a contact takes along for the client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from twisted.logger import Logger

from fleetspeak import ids
from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.records import Ack, Claim
from fleetspeak.server.contact.session import Session
from fleetspeak.store.outcome import only

SYSTEM = "system"
DIE = "Die"
REKEY_REQUEST = "RekeyRequest"

log = Logger()


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
    return Claim(session.client_id, tokens=session.tokens.limits())


async def settle(store: IStore, session: Session, messages: Sequence[common.Message]) -> None:
    """Account for `messages`, which were claimed and are about to be sent.

    A client that is told to die cannot confirm it, so a ``Die`` counts as processed from here on; and it costs no
    token.  That this cannot be noted is no reason to keep the messages back.
    """
    if not messages:
        return
    dying = [MessageId(message.message_id) for message in messages if _is_die(message)]
    session.tokens.spend(Counter(message.destination.service_name for message in messages if not _is_die(message)))
    if dying:
        try:
            await only(store.acknowledge([Ack(session.client_id, dying)]))
        except StoreError as error:
            log.error(
                "cannot note that client {client_id} was told to die: {error}",
                client_id=ids.show(session.client_id),
                error=error,
            )


def _is_die(message: common.Message) -> bool:
    return message.message_type == DIE and message.destination.service_name == SYSTEM
