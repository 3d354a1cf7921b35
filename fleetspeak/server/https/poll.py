"""``/message``: one contact, one answer."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from fleetspeak.errors import FleetspeakError, ProtocolError
from fleetspeak.pb import common
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.contact.session import Session
from fleetspeak.server.https.body import WholeBody
from fleetspeak.server.https.context import Context
from fleetspeak.server.https.refusals import answer_to
from fleetspeak.server.https.streamrequest import StreamedRequest, show_address
from fleetspeak.server.stats.meter import POLL
from fleetspeak.wire import contact

POLL_LIMIT = 5 * 60.0
"""Seconds from the headers to the answer."""


class Poll:
    """The handler of one poll."""

    __slots__ = ("_body", "_context", "_failed", "_identity", "_meter", "_request", "_work")

    def __init__(
        self,
        request: StreamedRequest,
        identity: Identity,
        encoding: str,
        context: Context,
    ) -> None:
        self._request = request
        self._identity = identity
        self._context = context
        self._body = WholeBody(encoding)
        self._failed = False
        self._work: Deferred[None] | None = None
        self._meter = context.meter(POLL, identity.client_id)
        request.set_deadline(POLL_LIMIT)

    # -- what the request tells

    def body_received(self, data: bytes) -> None:
        """Keep it."""
        if self._failed:
            return
        try:
            self._body.feed(data)
        except ProtocolError as error:
            self.body_failed(error)

    def body_failed(self, error: ProtocolError) -> None:
        """Answer that it cannot be read."""
        if not self._failed:
            self._refuse(400, f"error reading body: {error}")

    def body_ended(self) -> None:
        """Handle the contact."""
        if self._failed:
            return
        try:
            body = self._body.finish()
            if self._meter is not None:
                self._meter.read(len(body))
            wrapped = contact.unwrap(body)
        except ProtocolError as error:
            self._refuse(400, f"error parsing body: {error}")
            return
        self._work = Deferred.fromCoroutine(self._handle(wrapped))
        self._context.running.track(self._work)
        self._work.addErrback(self._unexpected)

    def connection_lost(self) -> None:
        """Nobody waits for the answer."""
        self._failed = True
        if self._meter is not None:
            self._meter.finish(400)
        if self._work is not None:
            self._work.cancel()

    def deadline_passed(self) -> None:
        """Give up."""
        self._refuse(500, "error processing contact: it took too long")
        if self._work is not None:
            self._work.cancel()

    def writing_paused(self) -> None:
        """There is one answer only."""

    def writing_resumed(self) -> None:
        """There is one answer only."""

    def drain(self) -> None:
        """The server stops: the contact is finished, which takes as long as it takes."""

    # -- the contact

    async def _handle(self, wrapped: common.WrappedContactData) -> None:
        address = show_address(self._request.client)
        try:
            session, messages = await self._context.contacts.first(address, self._identity, wrapped)
        except FleetspeakError as error:
            code, text = answer_to(error)
            self._refuse(code, text, error)
            return
        reply = common.ContactData(sequencing_nonce=session.sent_nonce, messages=messages)
        body = reply.SerializeToString()
        if self._meter is None:
            self._request.reply(body)
        else:
            self._reply_and_count(body, session, messages)

    def _reply_and_count(self, body: bytes, session: Session, messages: Sequence[common.Message]) -> None:
        assert self._meter is not None  # it is for this
        for message in messages:
            self._context.stats.message_sent(message, session.client)
        self._meter.handled(session.cache_hit)
        self._request.reply(body)
        self._meter.wrote(len(body))
        self._meter.finish(200)

    def _refuse(self, code: int, text: str, detail: Exception | None = None) -> None:
        self._failed = True
        if self._meter is not None:
            self._meter.finish(code)
        self._context.refusals.refuse(self._request, self._identity, code, text, detail)

    def _unexpected(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self._context.refusals.failed(self._request, self._identity, failure)
        if self._meter is not None:
            self._meter.finish(500)
        self._request.refuse(500, "error processing contact: internal error")
