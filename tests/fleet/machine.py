"""A client that never gives up: it says what it has to say until the server has confirmed it.

It follows the rules that make a client lose nothing: a message is repeated under the same source_message_id
until a poll is answered or a record acknowledged, and each received message is confirmed by a MessageAck that
is itself such a message.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from google.protobuf.wrappers_pb2 import BytesValue

from fleetspeak import ids
from fleetspeak.pb import common, system
from fleetspeak.testing.wireclient import Connection, Identity, RefusedError, Stream

SERVICE = "load"
"""The service of the machine that all messages come from and go to."""

PAUSE = 0.5
"""Seconds between polls with nothing to say, and between attempts to connect."""


class Machine(threading.Thread):
    """One client, polling or streaming, in a thread of its own; start it, and stop it by `finish`."""

    def __init__(self, connect: Callable[[Identity], Connection], streaming: bool, seed: int) -> None:
        """@param connect: opens a connection; what it raises is as good as a lost connection."""
        super().__init__(name=f"machine {seed}", daemon=True)
        self.identity = Identity.make()
        self.received: Counter[bytes] = Counter()
        """How often each message, by message id, has come."""
        self.confirmed: set[bytes] = set()
        """source_message_ids of what the server has taken responsibility for."""
        self.enrolled = threading.Event()
        self._connect = connect
        self._streaming = streaming
        self._random = random.Random(seed)
        self._outbox: dict[bytes, common.Message] = {}
        self._lock = threading.Lock()
        self._finishing = threading.Event()

    def say(self, to: str, texts: Sequence[bytes]) -> set[ids.MessageId]:
        """Have it send these to a server service; returns the message ids they will have there."""
        messages = [_message(to, text) for text in texts]
        with self._lock:
            self._outbox.update((message.source_message_id, message) for message in messages)
        source = self.identity.client_id
        return {ids.message_id_of(source, SERVICE, message.source_message_id) for message in messages}

    def finish(self) -> None:
        """Let it end; it is joined."""
        self._finishing.set()
        self.join(30)
        assert not self.is_alive()

    def run(self) -> None:
        while not self._finishing.is_set():
            try:
                with self._connect(self.identity) as connection:
                    if self._streaming:
                        self._stream(connection)
                    else:
                        self._poll(connection)
            except (OSError, RefusedError, ValueError):
                # ValueError: the server died in the middle of a line.  Whatever it is, all is said again.
                self._finishing.wait(PAUSE)

    def _poll(self, connection: Connection) -> None:
        while not self._finishing.is_set():
            batch = self._next_batch()
            self._take(connection.poll(common.ContactData(messages=batch)))
            self._confirm(batch)
            if not self._outbox:
                self._finishing.wait(PAUSE)

    def _stream(self, connection: Connection) -> None:
        batch = self._next_batch()
        stream = Stream(connection, common.ContactData(messages=batch))
        self._take(stream.opening)
        self._confirm(batch)
        while not self._finishing.is_set():
            if self._outbox:
                self._send_record(stream)
            elif stream.wait(PAUSE):
                self._take(stream.receive())

    def _send_record(self, stream: Stream) -> None:
        """One record, and whatever comes until it is acknowledged."""
        batch = self._next_batch()
        index = stream.send(common.ContactData(messages=batch))
        while True:
            came = stream.receive()
            self._take(came)
            if came.ack_index:
                assert came.ack_index == index, "acknowledgements come in order"
                self._confirm(batch)
                return

    def _next_batch(self) -> list[common.Message]:
        with self._lock:
            return list(self._outbox.values())[: self._random.randint(1, 10)]

    def _confirm(self, batch: Sequence[common.Message]) -> None:
        self.enrolled.set()
        with self._lock:
            for message in batch:
                del self._outbox[message.source_message_id]
                if message.destination.service_name != "system":
                    self.confirmed.add(message.source_message_id)

    def _take(self, contact: common.ContactData) -> None:
        """Note what came, and have it confirmed."""
        if not contact.messages:
            return
        acks = system.MessageAckData(message_ids=[message.message_id for message in contact.messages])
        confirmation = _message("system", b"")
        confirmation.message_type = "MessageAck"
        confirmation.data.Pack(acks)
        with self._lock:
            self._outbox[confirmation.source_message_id] = confirmation
            self.received.update(acks.message_ids)


def _message(to: str, text: bytes) -> common.Message:
    message = common.Message(source_message_id=secrets.token_bytes(ids.SOURCE_MESSAGE_ID_SIZE))
    message.source.service_name = SERVICE if to != "system" else "system"
    message.destination.service_name = to
    message.data.Pack(BytesValue(value=text))
    return message
