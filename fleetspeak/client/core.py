"""The client as its communicator sees it: the implementation of `fleetspeak.client.link.Link`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fleetspeak.client.flow import Flow
from fleetspeak.client.identity import KeyedIdentity
from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.client.router import Router
from fleetspeak.client.signers import signatures
from fleetspeak.client.state import StateKeeper
from fleetspeak.client.stats import Stats
from fleetspeak.client.watchdog import Watchdog
from fleetspeak.ids import NO_CLIENT, ClientId, show
from fleetspeak.interfaces import IContactSigner
from fleetspeak.pb import common
from fleetspeak.program.ending import Ending
from fleetspeak.wire import contact as wire_contact


class ClientLink:
    """Puts contact data together and takes it apart."""

    _log = Logger()

    def __init__(
        self,
        state: StateKeeper,
        outbox: ClientOutbox,
        router: Router,
        flow: Flow,
        labels: Sequence[str],
        ending: Ending,
        now_ns: Callable[[], int],
        stats: Stats,
        watchdog: Watchdog | None = None,
        *,
        signers: Sequence[IContactSigner] = (),
    ) -> None:
        self._state = state
        self._outbox = outbox
        self._router = router
        self._flow = flow
        self._labels = labels
        self._ending = ending
        self._now_ns = now_ns
        self._stats = stats
        self._watchdog = watchdog
        self.streaming = False
        """Whether the communicator that is in use streams; for the statistics."""
        self._signers = signers
        self._known_as: ClientId = NO_CLIENT
        self._last_contact: tuple[str, int] | None = None

    @property
    def identity(self) -> KeyedIdentity:
        """See `Link`."""
        return self._state.identity

    @property
    def outbox(self) -> ClientOutbox:
        """See `Link`."""
        return self._outbox

    @property
    def stats(self) -> Stats:
        """See `Link`."""
        return self._stats

    def contact(self, messages: Sequence[common.Message], *, first: bool) -> bytes:
        """See `Link`."""
        contact = common.ContactData(
            sequencing_nonce=self._state.nonce, messages=messages, AllowedMessages=self._flow.tokens(first=first)
        )
        contact.client_clock.FromNanoseconds(self._now_ns())
        wrapped = wire_contact.wrap_signed(contact, self._labels, lambda data: signatures(self._signers, data))
        self._stats.contact_created(wrapped, None)
        return wrapped.SerializeToString()

    def received(self, contact: common.ContactData, *, first: bool) -> None:
        """See `Link`."""
        if first:
            self._state.nonce = contact.sequencing_nonce
        for message in contact.messages:
            try:
                self._router.deliver(message)
            except Exception:
                self._log.failure("a message of the server could not be delivered")
        self._stats.contact_processed(contact, self.streaming, None)

    def when_beacon(self) -> Deferred[None]:
        """See `Link`."""
        return self._flow.when_beacon()

    def is_revoked(self, serial: int) -> bool:
        """See `Link`."""
        return self._state.is_revoked(serial)

    def attempting(self, server: str) -> None:
        """See `Link`."""
        if self._watchdog is not None:
            self._watchdog.reset(f"an attempt at contact with {server}")

    def contacted(self, server: str) -> None:
        """See `Link`.  Logs the first contact of each identity."""
        self._last_contact = (server, self._now_ns())
        client_id = self._state.identity.client_id
        if client_id != self._known_as:
            self._known_as = client_id
            self._log.info(
                "contact with {server} established as client {client_id}", server=server, client_id=show(client_id)
            )

    def describe(self) -> str:
        """How the client is, in one line for people."""
        if self._last_contact is None:
            contact = "no contact yet"
        else:
            server, when = self._last_contact
            contact = f"contact with {server} at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when / 1e9))}"
        return f"{contact}; {self._outbox.unconfirmed} messages not confirmed"

    def give_up(self, reason: str, exit_code: int) -> None:
        """See `Link`."""
        self._log.critical("giving up: {reason}", reason=reason)
        self._ending.end(exit_code)
