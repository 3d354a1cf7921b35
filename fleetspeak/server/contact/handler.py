"""The contact pipeline: the steps in their order."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fleetspeak.core.authorization import Claimed
from fleetspeak.errors import NotAuthorized
from fleetspeak.interfaces import IAuthorizer, IStore
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Contact, Exchange, Label
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.contact import authorize, outgoing
from fleetspeak.server.contact.identify import Identity, check_key
from fleetspeak.server.contact.intake import MAX_NAME, take_in_all
from fleetspeak.server.contact.parse import clock_of, parse
from fleetspeak.server.contact.process import process
from fleetspeak.server.contact.seams import Broadcaster, Enrolment, Ingestor, NoBroadcasts, OpenEnrolment
from fleetspeak.server.contact.session import Session
from fleetspeak.server.contact.signatures import check_signatures
from fleetspeak.server.contact.write import write
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.notify.local import LOCAL
from fleetspeak.server.stats import NO_STATS, ServerStats
from fleetspeak.store.outcome import only

CLIENT = "client"
"""The owner of labels that a client states about itself."""


def random_nonce() -> int:
    """64 bits that nobody can guess, and never 0, which means none."""
    return secrets.randbits(64) or 1


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A first contact that passed every check."""

    session: Session
    data: common.ContactData
    messages: Sequence[common.Message]
    is_new: bool


class ContactHandler:
    """Handles contacts, whatever transport they come by.  All in the reactor's thread.

    The transport limits the time of each call, by cancelling it.
    """

    def __init__(
        self,
        store: IStore,
        authorizer: IAuthorizer,
        ingestor: Ingestor,
        cache: ClientCache,
        dispatcher: Dispatcher,
        *,
        streaming_to: Callable[[], str] = lambda: LOCAL,
        now_ns: Callable[[], int] = time.time_ns,
        nonce: Callable[[], int] = random_nonce,
        broadcaster: Broadcaster | None = None,
        enrolment: Enrolment | None = None,
        stats: ServerStats = NO_STATS,
    ) -> None:
        """`streaming_to` gives the listener's address: by which other servers reach the streams here."""
        self._store = store
        self._authorizer = authorizer
        self._ingestor = ingestor
        self._cache = cache
        self._dispatcher = dispatcher
        self._streaming_to = streaming_to
        self._now_ns = now_ns
        self._nonce = nonce
        self._broadcaster: Broadcaster = broadcaster or NoBroadcasts()
        self._enrolment: Enrolment = enrolment or OpenEnrolment()
        self._stats = stats

    async def first(
        self,
        address: str,
        identity: Identity,
        wrapped: common.WrappedContactData,
        wake: Callable[[], None] | None = None,
    ) -> tuple[Session, Sequence[common.Message]]:
        """The first contact data of a connection: a poll, or the start of a stream.

        @param address: the peer as ``ip:port``.
        @param wake: for a stream: called when there may be messages for the client, from before this returns.
        @return: the connection's session, to be ended by the caller; and the messages to send.
        @raise NotAuthorized: refused.
        @raise ProtocolError: the contact is not what it should be.
        @raise StoreError, NotReady: it may be tried again.
        """
        admitted = await self._admit(address, identity, wrapped)
        session = admitted.session
        if wake is not None:
            # Before the claim: a message that is committed after it finds the stream here.
            session.registration = self._dispatcher.register(session.client_id, wake, session.refresh)
        try:
            messages = await self._first_exchange(admitted)
        except BaseException:
            session.end()
            raise
        return session, messages

    async def record(self, session: Session, wrapped: common.WrappedContactData) -> bool:
        """A further record of a stream; when this returns, its messages are stored.

        @return: True if a service that had no tokens has some now, so that there may be messages to send.
        @raise NotAuthorized, ProtocolError, StoreError, NotReady: nothing of it was stored; the stream must end.
        """
        claim = authorize.claim_of(session.client_id, wrapped)
        tags = self._validate(session.address, claim, session.client, wrapped)
        data = parse(wrapped)
        messages = take_in_all(data.messages, session.client_id, tags, self._now_ns())
        if messages:
            await process(self._store, self._ingestor, messages, session.client, is_new=False)
            self._count_saved(messages, session)
            await write(self._store, Exchange(messages, contact_id=session.contact_id))
        return bool(data.AllowedMessages) and session.tokens.grant(data.AllowedMessages)

    async def look(self, session: Session) -> Sequence[common.Message]:
        """Take what waits for the client of a stream.

        @return: the messages to send; `outgoing.may_be_more` says whether to look again.
        @raise StoreError: it may be tried again.
        """
        if session.client.blacklisted:
            return await self._ask_to_rekey(session)
        exchange = Exchange(contact_id=session.contact_id, claim=outgoing.claim_for(session))
        exchanged = await only(self._store.exchange([exchange]))
        outgoing.spend(session, exchanged.messages)
        return await outgoing.with_broadcasts(self._broadcaster, session, exchanged.messages)

    async def _ask_to_rekey(self, session: Session) -> Sequence[common.Message]:
        """A blacklisted client gets nothing else, and that once on a connection."""
        if session.is_asked_to_rekey:
            return ()
        request = outgoing.rekey_request(session.client_id, self._now_ns())
        self._stats.message_saved(request, True, session.client)
        session.is_asked_to_rekey = True
        try:
            await self._write(session, Exchange([request], contact_id=session.contact_id))
        except BaseException:
            session.is_asked_to_rekey = False
            raise
        return [request]

    # -- the first exchange

    async def _admit(self, address: str, identity: Identity, wrapped: common.WrappedContactData) -> _Admitted:
        client_id = identity.client_id
        claim = authorize.claim_of(client_id, wrapped)
        authorize.allow_contact(self._authorizer, address, claim)
        cached = self._cache.get(client_id)
        known = cached or await self._cache.lookup(client_id)
        check_key(identity, known)
        if known is None and not self._enrolment.is_open:
            raise NotAuthorized("enrolment is closed, and this client is not known", "enrolment")
        authorize.allow_client(self._authorizer, address, claim, known)
        tags = self._validate(address, claim, known, wrapped)
        data = parse(wrapped)
        client = known or ClientData(identity.key, _labels(claim))
        session = Session(address, identity, client, self._nonce(), cache_hit=cached is not None)
        session.tokens.start(data.AllowedMessages)
        messages = take_in_all(data.messages, client_id, tags, self._now_ns())
        return _Admitted(session, data, messages, is_new=known is None)

    def _validate(
        self, address: str, claim: Claimed, client: ClientData | None, wrapped: common.WrappedContactData
    ) -> Mapping[str, str]:
        signatures = check_signatures(wrapped)
        return authorize.validate(self._authorizer, address, claim, client, signatures)

    async def _first_exchange(self, admitted: _Admitted) -> Sequence[common.Message]:
        session, messages = admitted.session, list(admitted.messages)
        contact: Contact | None = self._contact(admitted)
        new_client = session.client if admitted.is_new else None
        if messages:
            if new_client is not None:
                # Services may ask for the client, or send to it, as soon as they see its first message.
                enrolled = await write(self._store, Exchange(contact=contact, new_client=new_client))
                session.contact_id, contact, new_client = enrolled.contact_id, None, None
            await process(self._store, self._ingestor, messages, session.client, admitted.is_new)
            self._count_saved(messages, session)
        if session.client.blacklisted:
            request = outgoing.rekey_request(session.client_id, self._now_ns())
            self._stats.message_saved(request, True, session.client)
            await self._write(session, Exchange([*messages, request], contact, session.contact_id, new_client))
            session.is_asked_to_rekey = True
            return [request]
        claim = outgoing.claim_for(session)
        exchange = Exchange(messages, contact, session.contact_id, new_client, claim)
        taken = await self._write(session, exchange)
        outgoing.spend(session, taken)
        return await outgoing.with_broadcasts(self._broadcaster, session, taken)

    def _count_saved(self, messages: Sequence[common.Message], session: Session) -> None:
        if self._stats.active:
            for message in messages:
                self._stats.message_saved(message, False, session.client)

    def _contact(self, admitted: _Admitted) -> Contact:
        """How the contact is recorded."""
        session = admitted.session
        return Contact(
            session.client_id,
            sent_nonce=session.sent_nonce,
            received_nonce=admitted.data.sequencing_nonce,
            address=session.address,
            clock=clock_of(admitted.data),
            streaming_to=self._streaming_to() if session.registration is not None else "",
        )

    async def _write(self, session: Session, exchange: Exchange) -> Sequence[common.Message]:
        exchanged = await write(self._store, exchange)
        session.contact_id = exchanged.contact_id
        return exchanged.messages


def _labels(claim: Claimed) -> frozenset[Label]:
    """The claimed labels as far as they can be stored; the client's own ClientInfo says the same later."""
    return frozenset(Label(CLIENT, label) for label in claim.labels if label and len(label) <= MAX_NAME)
