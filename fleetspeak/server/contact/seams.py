"""What the contact pipeline needs of others, as protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from fleetspeak.ids import ClientId
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Label


class Ingestor(Protocol):
    """Gives the messages of one contact to the services of this server."""

    async def process(self, messages: Sequence[common.Message], client: ClientData | None, first_try: bool) -> None:
        """Process `messages`, which come from one client, side by side, for a bounded time.

        On return each message that is done, well or for good, has its `result` and no payload; one without a
        `result` is to be stored as pending and will be tried again.  A service that fails never makes this fail.

        `client` is what the server knows of the sender, None for a message of a server service; `first_try` is
        False for messages that come from the backlog.

        Raises NotReady when the services are stopped: then nothing may be stored, and the client comes again.
        Cancelling it gives the messages up; they must not be used any more.
        """


class Broadcaster(Protocol):
    """Has what goes to every client with certain labels."""

    def may_have(self, client_id: ClientId, labels: frozenset[Label]) -> bool:
        """Whether it is worth asking `take` for a client; at once, from memory."""

    async def take(
        self, client_id: ClientId, labels: frozenset[Label], tokens: Mapping[str, int] | None, contact_id: str
    ) -> list[common.Message]:
        """Broadcasts that the client has not been sent yet, which count as sent from now; stored, and linked to the
        contact.  Gives none if the store fails."""


class NoBroadcasts:
    """For a server without any."""

    def may_have(self, client_id: ClientId, labels: frozenset[Label]) -> bool:
        """No."""
        return False

    async def take(
        self, client_id: ClientId, labels: frozenset[Label], tokens: Mapping[str, int] | None, contact_id: str
    ) -> list[common.Message]:
        """None."""
        return []


class Enrolment(Protocol):
    """Whether clients that are not known yet are let in; see `fleetspeak.server.enrolment`."""

    is_open: bool


class OpenEnrolment:
    """For a server whose store keeps no settings."""

    is_open = True
