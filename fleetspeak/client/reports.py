"""What the client itself tells the server about messages: which it has processed, and which failed."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from fleetspeak.client.addressing import SYSTEM, stamp
from fleetspeak.client.outbox import ClientOutbox
from fleetspeak.ids import ClientId, show
from fleetspeak.pb import common, monitoring, system

ACK_GROUPING = 1.0
"""Seconds from the first id until all that came meanwhile go out as one MessageAck; upstream's figure."""

MAX_WAITING_ERRORS = 50
"""Errors that may wait for room in the outbox; upstream's capacity of the same queue."""

USAGE_LIMIT = 30.0
"""Seconds until the client's own usage is dropped if the outbox has no room; upstream's figure."""

MAX_ERROR_TEXT = 16 * 1024
"""Characters of an error that are sent; it is for people."""


class Reports:
    """Sends MessageAck and MessageError, and never blocks whoever reports.

    An ack is never given up: ids gather until the outbox takes them.  Errors beyond `MAX_WAITING_ERRORS` are
    dropped; the server then sends the message again.
    """

    _log = Logger()

    def __init__(self, outbox: ClientOutbox, clock: IReactorTime, client_id: Callable[[], ClientId]) -> None:
        self._outbox = outbox
        self._clock = clock
        self._client_id = client_id
        self._acks: list[bytes] = []
        self._timer: IDelayedCall | None = None
        self._ack_waits = False
        self._errors: set[Deferred[None]] = set()

    def ack(self, message_id: bytes) -> None:
        """The message is processed.  Messages without an id are not the server's and need no ack."""
        if not message_id:
            return
        self._acks.append(message_id)
        if self._timer is None and not self._ack_waits:
            self._timer = self._clock.callLater(ACK_GROUPING, self.flush)

    def error(self, message_id: bytes, text: str) -> None:
        """The message failed, for that reason."""
        if not message_id:
            return
        if len(self._errors) >= MAX_WAITING_ERRORS:
            self._log.warn("dropped the error of message {id}: the outbox is full", id=show(message_id))
            return
        data = system.MessageErrorData(message_id=message_id, error=_sendable(text))
        sent = self.send("MessageError", data)
        if not sent.called:
            self._errors.add(sent)
            sent.addBoth(self._forget, sent)
        sent.addErrback(self._not_sent)

    def usage(self, data: monitoring.ResourceUsageData) -> None:
        """Tell what the client itself uses of its machine; it is dropped if there is no room for it soon."""
        sent = self.send("ResourceUsage", data, common.Message.LOW)
        sent.addTimeout(USAGE_LIMIT, self._clock).addErrback(self._not_sent)

    def flush(self) -> None:
        """Send the acks gathered so far now, as at stop."""
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None
        if self._ack_waits or not self._acks:
            return
        data = system.MessageAckData(message_ids=self._acks)
        self._acks = []
        self._ack_waits = True
        self.send("MessageAck", data).addErrback(self._not_sent).addCallback(self._ack_accepted)

    def send(
        self,
        message_type: str,
        data: ProtobufMessage,
        priority: common.Message.Priority.ValueType = common.Message.HIGH,
    ) -> Deferred[None]:
        """Send a message of the client itself to the server's system service; not counted as activity."""
        message = common.Message(message_type=message_type, priority=priority, background=True)
        message.destination.service_name = SYSTEM
        message.data.Pack(data)
        stamp(message, self._client_id(), SYSTEM)
        return self._outbox.submit(message)

    def _ack_accepted(self, _: object) -> None:
        self._ack_waits = False
        if self._acks and self._timer is None:
            self._timer = self._clock.callLater(ACK_GROUPING, self.flush)

    def _forget(self, result: object, sent: Deferred[None]) -> object:
        self._errors.discard(sent)
        return result

    def _not_sent(self, failure: object) -> None:
        self._log.debug("a report to the server was not taken: {failure}", failure=failure)


def _sendable(text: str) -> str:
    """Of bounded length, and without what UTF-8 cannot hold, as the text of a strange file name may."""
    return text[:MAX_ERROR_TEXT].encode("utf-8", "replace").decode("utf-8")
