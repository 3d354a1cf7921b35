"""The process's side of the relentless protocol, for every variant of the connector.  No I/O, no clock, no chance.

Each message is kept until the client has acknowledged it, and sent again on each new connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from google.protobuf.message import DecodeError

from fleetspeak.client_connector.messages import body_of, frame_of
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common, system
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelreader import READ_LIMIT, ChannelReader

ID_SIZE = 16
"""Bytes of the id that a message gets if it has none."""

MAX_PENDING = 1000
"""Messages that may be unacknowledged; then `Relentless.has_room` says no."""

MAX_PENDING_BYTES = 32 * 1024 * 1024
"""Bytes of them; the message that reaches the limit may exceed it."""

MAX_RECEIVED = 5
"""Messages for the process that are read ahead (as in the Go programs)."""

MAX_RECEIVED_BYTES = 64 * 1024 * 1024
"""Bytes of them that are read ahead while somebody waits for an acknowledgement, which may be behind them."""

MESSAGE_OVERHEAD = 256
"""Bytes that each of them counts for beside its size."""

OVERFULL = (
    "so many messages wait to be received that the acknowledgement, which is behind them, cannot be read; "
    "receive them meanwhile, in another thread or task"
)
"""For who waits, when `Relentless.overfull`."""

READ_SIZE = 16 * 1024
"""Bytes to read at a time, so that little more is read ahead than is meant to be."""


class Relentless:
    """Says what to write to the connection, takes what comes from it, and outlives it.

    Whoever runs it calls `connected`, then `output` and `received` until the connection is lost, then `disconnected`,
    and so on.  Times are seconds, on any clock.
    """

    def __init__(self, startup: common.Message, make_id: Callable[[], bytes], read_limit: float = READ_LIMIT) -> None:
        """@param startup: the first message on each connection.
        @param make_id: gives `ID_SIZE` random bytes.
        """
        self._hello = channelframes.MAGIC + frame_of(startup)
        self._make_id = make_id
        self._read_limit = read_limit
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._reader: ChannelReader | None = None
        self._said_hello = False
        self._unsent: deque[bytes] = deque()
        self._acked: list[bytes] = []
        self._inbox: deque[tuple[common.Message, int]] = deque()
        self._inbox_bytes = 0

    # ---- for the process

    @property
    def has_room(self) -> bool:
        """May `send` be called?"""
        return len(self._pending) < MAX_PENDING and self._pending_bytes < MAX_PENDING_BYTES

    def send(self, message: common.Message) -> tuple[bytes, int]:
        """Keep a message until it is acknowledged.  The message itself is not changed, nor kept.

        @return: the id by which `acked` will tell of it, and its size in bytes.
        @raise ValueError: it cannot be sent.
        """
        size = len(body_of(message))
        sent = common.Message()
        sent.CopyFrom(message)
        sent.source_message_id = message.source_message_id or self._make_id()
        message_id = sent.source_message_id
        if message_id not in self._pending:
            self._keep(message_id, channelframes.encode(body_of(sent)))
        return message_id, size

    def is_pending(self, message_id: bytes) -> bool:
        """Is it not acknowledged yet?"""
        return message_id in self._pending

    def pending_ids(self) -> list[bytes]:
        """Those that are not, in the order of `send`."""
        return list(self._pending)

    def acked(self) -> list[bytes]:
        """The ids that were acknowledged since the last call."""
        acked, self._acked = self._acked, []
        return acked

    @property
    def has_message(self) -> bool:
        """Will `receive` give one?"""
        return bool(self._inbox)

    def receive(self) -> tuple[common.Message, int] | None:
        """The next message for the process, with its size in bytes; None if there is none."""
        if not self._inbox:
            return None
        message, size = self._inbox.popleft()
        self._inbox_bytes -= size + MESSAGE_OVERHEAD
        return message, size

    # ---- for the connection

    @property
    def opened(self) -> bool:
        """Has the client answered on this connection?"""
        return self._reader is not None and self._reader.opened

    def connected(self, now: float) -> None:
        """There is a new connection: say hello, then everything that is pending."""
        self._reader = ChannelReader(now, self._read_limit)
        self._said_hello = False
        self._unsent = deque(self._pending)

    def disconnected(self) -> None:
        """It is lost."""
        self._reader = None
        self._unsent.clear()

    def output(self) -> bytes:
        """What to write next, behind what this gave before; empty if there is nothing for now."""
        if self._reader is None:
            return b""
        if not self._said_hello:
            self._said_hello = True
            return self._hello
        # Nothing else before the client's magic number: it may be that it only listens to us later.
        while self._reader.opened and self._unsent:
            frame = self._pending.get(self._unsent.popleft())
            if frame is not None:
                return frame
        return b""

    @property
    def overfull(self) -> bool:
        """Must somebody receive before anything else can be read?"""
        return self._inbox_bytes >= MAX_RECEIVED_BYTES

    def wants_data(self, *, waiting: bool) -> bool:
        """Should the connection be read?

        @param waiting: somebody waits for an acknowledgement, or for room.
        """
        return not self.overfull if waiting else len(self._inbox) < MAX_RECEIVED

    def received(self, data: bytes, now: float) -> None:
        """Take what came; empty at the end of the stream.

        Ask `acked` and `receive` afterwards, also if it raises.

        @raise ProtocolError: the connection is of no use any more.
        """
        assert self._reader is not None, "not connected"
        if not data:
            self._reader.finish()
            return
        for body in self._reader.feed(data, now):
            self._take(body)
        self._reader.feed(b"", now)  # raises what is wrong behind these messages

    def resumed(self, now: float) -> None:
        """The connection is read again: until now the client could not be late."""
        if self._reader is not None:
            self._reader.resumed(now)

    @property
    def deadline(self) -> float | None:
        """When to call `check`, if the connection is read; None: not needed for now."""
        return None if self._reader is None else self._reader.deadline

    def check(self, now: float) -> None:
        """Raises ProtocolError if what is due did not come in time."""
        if self._reader is not None:
            self._reader.check(now)

    # ---- how

    def _keep(self, message_id: bytes, frame: bytes) -> None:
        self._pending[message_id] = frame
        self._pending_bytes += len(frame)
        if self._reader is not None:
            self._unsent.append(message_id)

    def _take(self, body: bytes) -> None:
        try:
            message = common.Message.FromString(body)
        except DecodeError as error:
            raise ProtocolError(f"error parsing received message: {error}") from None
        if _is_local_ack(message):
            self._take_acks(message)
        else:
            self._inbox.append((message, len(body)))
            self._inbox_bytes += len(body) + MESSAGE_OVERHEAD

    def _take_acks(self, message: common.Message) -> None:
        data = system.MessageAckData()
        try:
            message.data.Unpack(data)
        except DecodeError as error:
            raise ProtocolError(f"error parsing received LocalAck: {error}") from None
        for message_id in data.message_ids:
            frame = self._pending.pop(message_id, None)
            if frame is not None:  # others were acknowledged twice, or are not ours
                self._pending_bytes -= len(frame)
                self._acked.append(message_id)


def _is_local_ack(message: common.Message) -> bool:
    return (
        message.message_type == "LocalAck"
        and message.source.service_name == "client"
        and not message.HasField("destination")
    )
