"""One stream: from the request to its end, by whatever it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from fleetspeak.client.comms.bodies import read_body
from fleetspeak.client.comms.http import MAX_REFUSAL, SUCCESS, RequestStream, Transport
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.comms.waiting import Bell, first_of, sleep
from fleetspeak.client.link import Link
from fleetspeak.core.ackwindow import AckWindow
from fleetspeak.core.outbox import Entry
from fleetspeak.core.writerate import WriteRate
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common
from fleetspeak.records import MAX_MESSAGES_PER_CONTACT
from fleetspeak.wire import compression, contact, streamframes

MAX_IN_FLIGHT = 8
"""Records that may be unacknowledged; beyond that, messages gather for the next one."""


class Session(Protocol):
    """The body of the response, and with it the whole stream.

    Messages are taken from the outbox whenever the transport can take more; what is ready together goes into one
    record.  They are acked by the server's acknowledgement, and nacked at the end of the stream.
    """

    _log = Logger()

    def __init__(
        self, link: Link, reactor: Any, *, deflate: bool, on_record: Callable[[], None] = lambda: None
    ) -> None:
        """@param on_record: called when a record of the server was dealt with; the stream may be settled then."""
        self._link = link
        self._server = ""
        self._on_record = on_record
        self._reactor = reactor
        self._deflater = compression.Deflater() if deflate else None
        self._decoder = streamframes.Decoder(streamframes.MAX_SERVER_RECORD)
        self._rate = WriteRate()
        self._window = AckWindow()
        self._opening: list[Entry] = []
        self._stream: RequestStream | None = None
        self._room = Bell()
        self._written: tuple[float, int] | None = None
        self._writing: Deferred[None] | None = None
        self._started: Deferred[None] = Deferred()
        self._closing = False
        self._ended = False
        self._when_ended: list[Deferred[None]] = []
        self.orderly = False
        """The server announced the end."""
        self.reason: BaseException | None = None
        """Why it ended otherwise."""

    async def open(self, transport: Transport, server: Server) -> None:
        """Make the request and see its first record answered.

        Raises whatever goes wrong, also when it is cancelled; the session is over then.
        """
        self._server = str(server)
        self._opening = self._take_entries()
        try:
            stream = self._stream = await self._sent_first(transport, server)
            response = await stream.response
            if response.code != SUCCESS:
                raise ProtocolError(f"status {response.code}: {await _text_of(response)}")
            response.deliverBody(self)  # type: ignore[no-untyped-call]
            await self._started
        except BaseException as error:
            self.abort(error)
            raise

    async def _sent_first(self, transport: Transport, server: Server) -> RequestStream:
        stats, record = self._link.stats, b""
        try:
            stream = await transport.open_stream(server, "/streaming-message", self._on_drained)
            record = self._record(self._opening, first=True)
            stream.write(self._encode(streamframes.MAGIC + record))
        except Exception as error:
            stats.contact_sent(self._server, len(record), error)
            raise
        stats.contact_sent(self._server, len(record), None)
        return stream

    @property
    def is_settled(self) -> bool:
        """Is it alive, with nothing unacknowledged and nothing to send?"""
        if self._ended or not self._started.called or len(self._window):
            return False
        ready = self._link.outbox.when_ready()
        has_more = ready.called
        ready.addErrback(lambda _: None).cancel()
        return not has_more

    @property
    def is_loaded(self) -> bool:
        """Are there messages in the first record, while the server has not answered it?"""
        return bool(self._opening)

    def when_ended(self) -> Deferred[None]:
        """Fires at the end; all that was not acknowledged is in the outbox again by then.  Cancellable."""
        if self._ended:
            return succeed(None)
        ended: Deferred[None] = Deferred(self._when_ended.remove)
        self._when_ended.append(ended)
        return ended

    def finish(self) -> None:
        """Send nothing more; end when all is acknowledged."""
        self._closing = True
        if self._writing is not None:
            self._writing.cancel()
        self._end_if_idle()

    def flush(self) -> None:
        """Send what is ready now, then `finish`."""
        while not self._closing and (entries := self._take_entries()):
            self._send(entries)
        self.finish()

    def abort(self, reason: BaseException | None = None) -> None:
        """End at once."""
        if self._stream is not None:
            self._stream.abort()
        self._over(reason)

    # ---- what the server sends

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        try:
            for record in self._decoder.feed(data):
                if not self._ended:
                    self._take(self._parsed(record))
                    self._on_record()
        except ProtocolError as error:
            self._fail(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self._fail(ProtocolError("the server ended the stream"))
        else:
            self._fail(reason.value or ConnectionLost())

    def _parsed(self, record: bytes) -> common.ContactData:
        try:
            data = contact.parse(record)
        except ProtocolError as error:
            self._link.stats.contact_received(self._server, len(record), error)
            raise
        self._link.stats.contact_received(self._server, len(record), None)
        return data

    def _take(self, data: common.ContactData) -> None:
        if not self._started.called:
            self._take_first(data)
            return
        if data.done_sending:
            self.orderly = True
        if data.messages:
            self._link.received(data, first=False)
            if self._ended:  # one of the messages made the client drop its connections
                return
        if data.ack_index:
            self._link.outbox.ack(self._window.acked(data.ack_index))
            self._room.ring()
        if data.done_sending and not self._closing:
            self.finish()
        elif self._closing:
            self._end_if_idle()

    def _take_first(self, data: common.ContactData) -> None:
        self._link.received(data, first=True)
        if self._ended:
            return
        opening, self._opening = self._opening, []
        self._link.outbox.ack(opening)
        self._writing = Deferred.fromCoroutine(self._write())
        self._writing.addErrback(self._writing_failed)
        self._started.callback(None)

    # ---- what we send

    async def _write(self) -> None:
        while not self._closing:
            await first_of([self._link.outbox.when_ready(), self._link.when_beacon()])
            await sleep(self._reactor, 0)  # whatever else becomes ready in this turn of the reactor joins the record
            while self._held_up():
                await self._room.wait()
            self._send(self._take_entries())

    def _held_up(self) -> bool:
        return len(self._window) >= MAX_IN_FLIGHT or (self._stream is not None and self._stream.full)

    def _take_entries(self) -> list[Entry]:
        """As many as make a record full; the one that fills it may go beyond, as upstream's does."""
        threshold = self._rate.threshold()
        entries = self._link.outbox.take(MAX_MESSAGES_PER_CONTACT, threshold)
        if 0 < len(entries) < MAX_MESSAGES_PER_CONTACT and sum(entry.size for entry in entries) < threshold:
            entries += self._link.outbox.take(1, 1)
        return entries

    def _send(self, entries: list[Entry]) -> None:
        assert self._stream is not None
        record = self._record(entries, first=False)
        self._window.sent(entries)
        began = self._reactor.seconds()
        self._stream.write(self._encode(record))
        self._link.stats.contact_sent(self._server, len(record), None)
        self._written = (began, len(record)) if self._stream.full else None

    def _record(self, entries: list[Entry], *, first: bool) -> bytes:
        return streamframes.encode(self._link.contact([entry.message for entry in entries], first=first))

    def _encode(self, data: bytes) -> bytes:
        return data if self._deflater is None else self._deflater.feed(data)

    def _on_drained(self) -> None:
        if self._written is not None:
            began, size = self._written
            self._rate.wrote(size, self._reactor.seconds() - began)
            self._written = None
        self._room.ring()

    def _writing_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # type: ignore[no-untyped-call]
            self._log.failure("writing to the stream failed", failure)
            self.abort(failure.value)

    # ---- the end

    def _end_if_idle(self) -> None:
        """Part in order, when all is acknowledged."""
        if self._stream is not None and not self._ended and not len(self._window):
            if self._deflater is not None:
                self._stream.write(self._deflater.finish())
            self._stream.end()
            self._over(None)

    def _fail(self, error: BaseException) -> None:
        if not self._started.called:
            self._started.errback(error)
        self.abort(error)

    def _over(self, reason: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = self._closing = True
        self.reason = reason
        if self._writing is not None:
            self._writing.cancel()
        opening, self._opening = self._opening, []
        self._link.outbox.nack(opening + self._window.unacked())
        waiting, self._when_ended = self._when_ended, []
        for ended in waiting:
            ended.callback(None)


async def _text_of(response: IResponse) -> str:
    return (await read_body(response, MAX_REFUSAL)).decode("utf-8", "replace").strip()
