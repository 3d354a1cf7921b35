"""Tells the process which of its messages have arrived, so that it need not repeat them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from fleetspeak.pb import common, system
from fleetspeak.wire import channelframes

PERIOD = 0.1
"""Seconds in which ids are gathered for one LocalAck (as in the Go client)."""

MAX_WAITING = 1000
"""Ids that may wait to be written; a process that leaves more unread must read before it is read from again."""

MAX_FRAME_IDS = 64 * 1024
"""Bytes of ids in one LocalAck; more are put into several."""


class LocalAcks:
    """Gathers ids and writes them as LocalAck messages; whoever notes one never waits."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        write: Callable[[bytes], Awaitable[None]],
        relieved: Callable[[], None],
        period: float = PERIOD,
    ) -> None:
        """@param write: done when the connection has taken the bytes.
        @param relieved: called when fewer than `MAX_WAITING` ids wait again.
        """
        self._clock = clock
        self._write = write
        self._relieved = relieved
        self._period = period
        self._ids: list[bytes] = []
        self._timer: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self._closed = False

    @property
    def too_many(self) -> bool:
        """Are there so many that no more should come?"""
        return len(self._ids) >= MAX_WAITING

    def note(self, message_id: bytes) -> None:
        """This message has arrived.  After `close` nothing is noted: its connection cannot hear of it any more."""
        if self._closed:
            return
        self._ids.append(message_id)
        if self._timer is None and self._writing is None:
            self._timer = self._clock.callLater(self._period, self._flush)

    def finish(self) -> Deferred[None]:
        """Write what is left now, as at the end of a connection.  Fires when it is written; never fails."""
        if self._timer is not None:
            self._timer.cancel()
            self._flush()
        done: Deferred[None] = Deferred()
        if self._writing is None:
            done.callback(None)
        else:
            self._writing.addBoth(done.callback)
        return done

    def close(self) -> None:
        """The connection is gone."""
        self._closed = True
        self._ids.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush(self) -> None:
        self._timer = None
        writing = Deferred.fromCoroutine(self._write_all())
        if not writing.called:
            self._writing = writing
        writing.addErrback(lambda failure: self._log.debug("acks were not written: {failure}", failure=failure))
        writing.addCallback(self._written)

    async def _write_all(self) -> None:
        ids, self._ids = self._ids, []
        for frame in local_ack_frames(ids):
            await self._write(frame)

    def _written(self, _: object) -> None:
        self._writing = None
        if self._closed:
            return
        if self._ids and self._timer is None:
            self._timer = self._clock.callLater(self._period, self._flush)
        self._relieved()


def local_ack_frames(ids: list[bytes]) -> list[bytes]:
    """The LocalAcks for these ids, as the channel carries them."""
    groups: list[list[bytes]] = [[]]
    size = 0
    for message_id in ids:
        if size + len(message_id) > MAX_FRAME_IDS and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(message_id)
        size += len(message_id)
    return [_local_ack(group) for group in groups if group]


def _local_ack(ids: list[bytes]) -> bytes:
    message = common.Message(message_type="LocalAck", source=common.Address(service_name="client"))
    message.data.Pack(system.MessageAckData(message_ids=ids))
    return channelframes.encode(message.SerializeToString())
