"""The seam between the client and its communicator: what a communicator may ask, tell and take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509 import Certificate
from twisted.internet.defer import Deferred

from fleetspeak.client.stats import Stats
from fleetspeak.core.outbox import Entry
from fleetspeak.ids import ClientId
from fleetspeak.pb import common


class Identity(Protocol):
    """Who the client is now.  A rekey makes a new one; compare `client_id` to see it."""

    @property
    def client_id(self) -> ClientId: ...
    @property
    def key(self) -> EllipticCurvePrivateKey: ...
    @property
    def certificate(self) -> Certificate: ...


class Outbox(Protocol):
    """Messages on their way to the server.  What is taken must be acked or nacked exactly once."""

    def take(self, max_count: int, max_bytes: int) -> list[Entry]:
        """At once, by priority and then age, as many as fit; the first one always fits.  May be empty."""

    def when_ready(self) -> Deferred[None]:
        """Fires when `take` will give something (at once if it will now).  Cancellable."""

    def ack(self, entries: Sequence[Entry]) -> None:
        """The server has them: forget them, and call who waits for it."""

    def nack(self, entries: Sequence[Entry]) -> None:
        """The server may not have them: they come again, behind others of their priority."""


class Link(Protocol):
    """What a communicator sees of the client it works for."""

    @property
    def identity(self) -> Identity: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def stats(self) -> Stats: ...

    def contact(self, messages: Sequence[common.Message], *, first: bool) -> bytes:
        """A serialized WrappedContactData with these messages, the nonce, the clock and the labels.

        `first` (each poll, and the first record of a stream): the flow-control tokens are absolute; otherwise
        they are what was freed since the previous record.
        """

    def received(self, contact: common.ContactData, *, first: bool) -> None:
        """Take what the server sent: its messages always, its nonce only if `first`.  Never blocks or fails."""

    def when_beacon(self) -> Deferred[None]:
        """Fires when a record is due although there is no message, because services took many.  Cancellable."""

    def is_revoked(self, serial: int) -> bool:
        """Is this certificate serial number on the list of revoked ones?"""

    def attempting(self, server: str) -> None:
        """An attempt at contact with `server` (``host:port``) begins; without any for long, the watchdog bites."""

    def contacted(self, server: str) -> None:
        """A contact with `server` (``host:port``) succeeded; whoever waits for one, or watches us, hears of it."""

    def give_up(self, reason: str, exit_code: int) -> None:
        """The client cannot go on (for instance: too lonely); it ends with this exit status."""
