"""What a server remembers of one connection while it lasts."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleetspeak.core.tokens import TokenLedger
from fleetspeak.ids import ClientId
from fleetspeak.records import ClientData
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.dispatch import Registration


@dataclass(slots=True)
class Session:
    """One connection of one client, from its first contact data on.

    What is known of the client is what was known when the connection began; a stream hears of what changes.
    """

    address: str
    """The peer as ``ip:port``."""
    identity: Identity
    client: ClientData
    sent_nonce: int
    """The same for everything that is sent on this connection."""
    contact_id: str = ""
    tokens: TokenLedger = field(default_factory=TokenLedger)
    cache_hit: bool = False
    """The client was known without asking the store."""
    registration: Registration | None = None
    """By which notifications reach a stream."""
    is_asked_to_rekey: bool = False
    """The client is blacklisted, and was told."""

    @property
    def client_id(self) -> ClientId:
        """The client's id."""
        return self.identity.client_id

    def refresh(self, client: ClientData) -> bool:
        """Take note of what is known of the client now.  Returns whether that is new."""
        if client == self.client or client.key != self.client.key:
            return False
        self.client = client
        if not client.blacklisted:
            self.is_asked_to_rekey = False
        return True

    def end(self) -> None:
        """Nothing more will come on this connection; safe to call twice."""
        if self.registration is not None:
            self.registration.cancel()
            self.registration = None
