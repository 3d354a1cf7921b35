"""``/streaming-message``: one connection that carries contact data both ways until its time is over."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from fleetspeak.core.streamlife import StreamLife, StreamState
from fleetspeak.errors import FleetspeakError, ProtocolError
from fleetspeak.pb import common
from fleetspeak.program.awaiting import failure_of
from fleetspeak.records import ClientPoll
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.contact.outgoing import may_be_more
from fleetspeak.server.contact.session import Session
from fleetspeak.server.https.acks import AckOrder
from fleetspeak.server.https.body import RecordReader
from fleetspeak.server.https.context import Context
from fleetspeak.server.https.pushing import Pusher
from fleetspeak.server.https.refusals import answer_to
from fleetspeak.server.https.streamrequest import StreamedRequest, show_address
from fleetspeak.server.stats.meter import STREAM_FROM_CLIENT, STREAM_START, STREAM_TO_CLIENT, PollMeter
from fleetspeak.wire import contact, streamframes

START_LIMIT = 3 * 60.0
"""Seconds from the headers to the first response record."""
RECORD_LIMIT = 60.0
"""Seconds for one record: half of it for the services, half for the store."""
LATE_LIMIT = 15.0
"""Seconds that the last records may take when the stream is over."""
DRAIN_LIMIT = 5.0
"""Seconds that a client has to finish when the server stops."""

MAX_PARALLEL = 10
"""Records of one stream that are worked on at a time."""
MAX_PARALLEL_BYTES = 1024 * 1024
"""With so many bytes in work no further record is begun."""
TURN = 64
"""Records that are begun before others get their turn."""


class State(Enum):
    """Where a stream is in its life."""

    STARTING = auto()
    """Nothing was answered yet, so a status can still be sent."""
    OPEN = auto()
    CLOSING = auto()
    """Nothing more is pushed; records are still read and acknowledged."""
    ENDING = auto()
    """Nothing more is read; what was begun is finished and acknowledged."""
    OVER = auto()


class Stream:
    """The handler of one stream."""

    __slots__ = (
        "_acks",
        "_body_complete",
        "_bytes_in_work",
        "_context",
        "_identity",
        "_in_work",
        "_life",
        "_meter",
        "_pumping",
        "_pusher",
        "_reader",
        "_reading_paused",
        "_request",
        "_session",
        "_state",
        "_told_done",
    )

    def __init__(self, request: StreamedRequest, identity: Identity, encoding: str, context: Context) -> None:
        self._request = request
        self._identity = identity
        self._context = context
        self._state = State.STARTING
        self._session: Session | None = None
        self._meter = context.meter(STREAM_START, identity.client_id)
        """Of the first exchange, while that lasts."""
        self._reader = RecordReader(encoding)
        self._acks = AckOrder()
        self._pusher = Pusher(
            self._look, self._send_messages, self._look_failed, self._settle, context.clock, context.uniform
        )
        self._in_work: set[Deferred[None]] = set()
        self._bytes_in_work = 0
        self._body_complete = self._pumping = self._reading_paused = self._told_done = False
        times = context.times
        self._life = StreamLife(
            context.clock.seconds(), times.lifespan, times.close_time, times.jitter * context.uniform()
        )
        request.set_deadline(START_LIMIT)

    # -- what the request tells

    def body_received(self, data: bytes) -> None:
        """Begin the records that are complete now."""
        if self._is_reading:
            self._reader.feed(data)
            self._pump()

    def body_ended(self) -> None:
        """The client sends nothing more: finish what was begun, then end."""
        self._body_complete = True
        self._pump()

    def body_failed(self, error: ProtocolError) -> None:
        """Nothing more can be read."""
        if self._is_reading:
            self._broken(error)

    def connection_lost(self) -> None:
        """Nobody is there any more; what was begun is stored all the same, so that it is known when it is repeated."""
        was_starting = self._state is State.STARTING
        self._state = State.OVER
        self._pusher.cancel()
        self._end_session()
        if was_starting:
            self._count_start(400)
            self._give_up()
        elif self._in_work:
            self._context.clock.callLater(LATE_LIMIT, self._give_up)

    def deadline_passed(self) -> None:
        """It is time for the next state."""
        if self._state is State.STARTING:
            self._refuse(500, "error processing contact: it took too long")
            self._give_up()
        elif self._state is State.ENDING:
            self._give_up()
            self._over()
        else:
            self._live()

    def writing_paused(self) -> None:
        """Push nothing more for now."""
        self._pusher.hold()

    def writing_resumed(self) -> None:
        """Push again."""
        self._pusher.release()

    def drain(self) -> None:
        """The server stops, or the client shall come again as another one: have it finish."""
        self._life = StreamLife(self._context.clock.seconds(), DRAIN_LIMIT, DRAIN_LIMIT)
        if self._state in (State.OPEN, State.CLOSING):
            self._live()

    # -- records from the client

    @property
    def _is_reading(self) -> bool:
        return self._state in (State.STARTING, State.OPEN, State.CLOSING)

    def _pump(self) -> None:
        """Begin as many records as may be worked on at a time; read on, or stop reading, accordingly."""
        if self._pumping or not self._is_reading:
            return
        self._pumping = True
        try:
            self._begin_records()
        except ProtocolError as error:
            self._broken(error)
        finally:
            self._pumping = False
        if self._is_reading:
            self._throttle()

    def _begin_records(self) -> None:
        for _ in range(TURN):
            if not self._may_begin():
                return
            record = self._reader.next_record()
            if record is None:
                return
            self._begin(record)
        self._context.clock.callLater(0, self._pump)

    def _may_begin(self) -> bool:
        if self._state is State.STARTING:
            return not self._in_work
        return self._is_reading and len(self._in_work) < MAX_PARALLEL and self._bytes_in_work < MAX_PARALLEL_BYTES

    def _throttle(self) -> None:
        behind = self._reader.has_more
        if behind and not self._reading_paused:
            self._request.pause_reading()
        elif self._reading_paused and not behind:
            self._request.resume_reading()
        self._reading_paused = behind
        if self._body_complete and not behind and not (self._state is State.STARTING and self._in_work):
            self._body_over()

    def _body_over(self) -> None:
        try:
            self._reader.finish()
        except ProtocolError as error:
            self._broken(error)
            return
        if self._state is State.STARTING:
            self._refuse(400, "error reading body: there is no record in it")
        else:
            self._end_reading()

    def _begin(self, record: bytes) -> None:
        is_first = self._state is State.STARTING
        number = 0 if is_first else self._acks.begin()
        work = Deferred.fromCoroutine(self._start(record) if is_first else self._handle(record))
        if not (is_first or work.called):
            work.addTimeout(RECORD_LIMIT, self._context.clock)
        self._in_work.add(work)
        self._bytes_in_work += len(record)
        self._context.running.track(work)
        work.addBoth(self._done, work, number, len(record))

    async def _start(self, record: bytes) -> None:
        if self._meter is not None:
            self._meter.read(len(record))
        try:
            wrapped = contact.unwrap(record)
        except ProtocolError as error:
            self._refuse(400, f"error parsing body: {error}")
            return
        address = show_address(self._request.client)
        try:
            session, messages = await self._context.contacts.first(address, self._identity, wrapped, self._pusher.wake)
        except FleetspeakError as error:
            code, text = answer_to(error)
            self._refuse(code, text, error)
            return
        self._session = session
        if self._state is State.STARTING:
            self._open(messages)
        else:
            self._end_session()

    async def _handle(self, record: bytes) -> None:
        assert self._session is not None  # the first record is done
        meter = self._context.meter(STREAM_FROM_CLIENT, self._identity.client_id)
        has_tokens = await self._context.contacts.record(self._session, contact.unwrap(record))
        if meter is not None:
            meter.read(len(record))
            meter.handled(cache_hit=True)
            meter.finish(200)
        if has_tokens:
            self._pusher.wake()

    def _done(self, result: object, work: Deferred[None], number: int, size: int) -> None:
        self._in_work.discard(work)
        self._bytes_in_work -= size
        if isinstance(result, Failure):
            self._failed(result)
        elif number and not self._request.is_over:
            self._acknowledge(self._acks.done(number))
        self._pump()
        self._settle()

    def _failed(self, failure: Failure) -> None:
        """A record failed: no later one may be acknowledged, so the stream ends, and the client sends it again."""
        if not isinstance(failure.value, CancelledError):
            self._context.refusals.failed(self._request, self._identity, failure)
        if self._state is State.STARTING:
            self._refuse(500, "error processing contact: internal error")
        elif self._is_reading:
            self._count_bad_record(failure.value)
            self._end_reading()

    def _broken(self, error: ProtocolError) -> None:
        if self._state is State.STARTING:
            self._refuse(400, f"error reading body: {error}")
        else:
            self._context.refusals.ended(self._request, self._identity, error)
            self._count_bad_record(error)
            self._end_reading()

    # -- records for the client

    async def _look(self) -> Sequence[common.Message]:
        assert self._session is not None  # the pusher is started after the first record
        return await self._context.contacts.look(self._session)

    def _look_failed(self, error: Exception) -> None:
        self._context.refusals.failed(self._request, self._identity, failure_of(error))

    def _send_messages(self, messages: Sequence[common.Message]) -> None:
        session = self._session
        assert session is not None  # it is there before any message
        record = common.ContactData(sequencing_nonce=session.sent_nonce, messages=messages)
        if self._context.stats.active:
            self._write_and_count(record, session, messages)
        else:
            self._write(record)
        if session.is_asked_to_rekey:
            self.drain()  # the Go client takes its new key to its next connection

    def _acknowledge(self, numbers: range) -> None:
        if numbers:
            self._write(*(common.ContactData(ack_index=number) for number in numbers))

    def _write(self, *records: common.ContactData) -> int:
        """Returns how many bytes these are."""
        data = b"".join(streamframes.encode(record.SerializeToString()) for record in records)
        self._request.send(data)
        return len(data)

    # -- what is counted

    def _write_and_count(
        self, record: common.ContactData, session: Session, messages: Sequence[common.Message]
    ) -> None:
        stats = self._context.stats
        meter = self._meter or PollMeter(stats, STREAM_TO_CLIENT, self._identity.client_id)
        meter.handled(session.cache_hit if meter is self._meter else True)
        meter.wrote(self._write(record))
        meter.finish(200)
        self._meter = None
        for message in messages:
            stats.message_sent(message, session.client)

    def _count_start(self, status: int) -> None:
        if self._meter is not None:
            self._meter.finish(status)
            self._meter = None

    def _count_bad_record(self, error: BaseException | None) -> None:
        if isinstance(error, ProtocolError):
            status = 400
        else:
            status = answer_to(error)[0] if isinstance(error, FleetspeakError) else 500
        self._context.stats.client_poll(ClientPoll(STREAM_FROM_CLIENT, status, self._identity.client_id))

    # -- from one state to the next

    def _open(self, messages: Sequence[common.Message]) -> None:
        self._state = State.OPEN
        self._request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        self._send_messages(messages)
        if may_be_more(messages):
            self._pusher.wake()
        self._pusher.start()
        self._live()

    def _live(self) -> None:
        now = self._context.clock.seconds()
        stage = self._life.state(now)
        change = self._life.next_change(now)
        if stage is StreamState.OVER or change is None:
            self._end_reading()
            return
        if stage is StreamState.CLOSING:
            self._close()
        self._request.set_deadline(change - now)

    def _close(self) -> None:
        """Push nothing more, and say so once what is being looked for is sent."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self._pusher.stop()
            self._settle()

    def _end_reading(self) -> None:
        """Take no more records; end when those that were begun are done."""
        self._state = State.ENDING
        self._pusher.stop()
        self._request.pause_reading()
        self._request.set_deadline(LATE_LIMIT)
        self._settle()

    def _settle(self) -> None:
        """Do what had to wait for work that was under way."""
        if self._pusher.is_looking:
            return
        if self._state is State.CLOSING and not self._told_done:
            self._told_done = True
            self._write(common.ContactData(done_sending=True))
        elif self._state is State.ENDING and not self._in_work:
            self._over()

    def _over(self) -> None:
        self._state = State.OVER
        self._end_session()
        self._request.end()

    def _refuse(self, code: int, text: str, detail: Exception | None = None) -> None:
        self._state = State.OVER
        self._count_start(code)
        self._context.refusals.refuse(self._request, self._identity, code, text, detail)

    def _give_up(self) -> None:
        self._pusher.cancel()
        for work in list(self._in_work):
            work.cancel()

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.end()
