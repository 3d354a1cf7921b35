"""May this client make this contact?  The authorizer's last three stages; the first one is at accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleetspeak.core.authorization import CheckedSignature, Claimed
from fleetspeak.errors import NotAuthorized
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IAuthorizer
from fleetspeak.pb import common
from fleetspeak.records import ClientData


def claim_of(client_id: ClientId, wrapped: common.WrappedContactData) -> Claimed:
    """What the client says of itself."""
    return Claimed(client_id, len(wrapped.contact_data), tuple(wrapped.client_labels))


def allow_contact(authorizer: IAuthorizer, address: str, claim: Claimed) -> None:
    """The stage that knows the key.  Raises NotAuthorized."""
    if not authorizer.allow_contact(address, claim):
        raise NotAuthorized("the authorizer refuses this contact", "contact")


def allow_client(authorizer: IAuthorizer, address: str, claim: Claimed, client: ClientData | None) -> None:
    """The stage that knows the client's record.  Raises NotAuthorized."""
    if not authorizer.allow_client(address, claim, client):
        raise NotAuthorized("the authorizer refuses this client", "client")


def validate(
    authorizer: IAuthorizer,
    address: str,
    claim: Claimed,
    client: ClientData | None,
    signatures: Sequence[CheckedSignature],
) -> Mapping[str, str]:
    """The stage that knows everything.  Returns what is noted on each message.  Raises NotAuthorized."""
    tags = authorizer.validate(address, claim, client, signatures)
    if tags is None:
        raise NotAuthorized("the authorizer refuses what the client's signatures say", "signatures")
    return tags
