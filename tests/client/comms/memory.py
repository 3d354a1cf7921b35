"""A network in memory, for communicators on a clock: every request waits for the test to say what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IBodyProducer

from fleetspeak.client.comms.servers import Server
from fleetspeak.client.link import Link
from fleetspeak.client.stats import Stats
from fleetspeak.config.client import ClientSettings
from fleetspeak.ids import ClientId
from fleetspeak.pb import client, common
from fleetspeak.testing.clientside import client_settings
from fleetspeak.wire import contact as wire_contact
from fleetspeak.wire import streamframes


def message(name: str = "m", **fields: Any) -> common.Message:
    """A message to a server service."""
    return common.Message(
        message_type=name, destination=common.Address(service_name="S"), source_message_id=name.encode(), **fields
    )


def settings(servers: int = 1, **config: int) -> ClientSettings:
    """Settings with so many servers, and this communicator configuration."""
    defaults = {
        "max_poll_delay_seconds": 300,
        "max_buffer_delay_seconds": 5,
        "min_failure_delay_seconds": 10,
        "failure_suicide_time_seconds": 3600,
    }
    return client_settings(
        servers=[(f"server{number}", 443) for number in range(servers)],
        communicator=client.CommunicatorConfig(**(defaults | config)),  # type: ignore[arg-type]
    )


class Response:
    """The head of a response; its body is pushed by the test."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.body: Any = None

    def deliverBody(self, protocol: Any) -> None:
        """Twisted's name for it."""
        self.body = protocol


class WholeResponse(Response):
    """A response whose body is there at once."""

    def __init__(self, code: int, content: bytes) -> None:
        super().__init__(code)
        self._content = content

    def deliverBody(self, protocol: Any) -> None:
        protocol.dataReceived(self._content)
        protocol.connectionLost(Failure(ResponseDone()))


@dataclass
class Poll:
    """One POST of a whole body."""

    server: str
    client_id: ClientId
    contact: common.ContactData
    response: Deferred[Any]

    @property
    def names(self) -> list[str]:
        """The types of the messages in it."""
        return [message.message_type for message in self.contact.messages]

    def answer(self, *messages: common.Message, nonce: int = 1) -> None:
        """Success."""
        content = common.ContactData(sequencing_nonce=nonce, messages=messages).SerializeToString()
        self.response.callback(WholeResponse(200, content))

    def refuse(self, status: int = 500) -> None:
        """Another status."""
        self.response.callback(WholeResponse(status, b"no\n"))

    def fail(self) -> None:
        """No connection."""
        self.response.errback(Failure(ConnectionRefusedError()))


class Stream:
    """One request whose body does not end; stands in for `HttpStream`."""

    def __init__(self, server: str, client_id: ClientId, on_drained: Callable[[], None]) -> None:
        self.server = server
        self.client_id = client_id
        self.response: Deferred[Any] = Deferred()
        self.full = False
        self.fills_up = False
        """From now on the transport is full after each write."""
        self.ended = False
        self.aborted = False
        self.contacts: list[common.ContactData] = []
        self.rate: tuple[float, Clock] | None = None
        """Bytes per second of the line, if it is slower than memory."""
        self.took: list[float] = []
        """Seconds that each write took on that line."""
        self.began = 0.0
        self.dealt_with = 0
        """For the test: when it was opened, and how many records the server has looked at."""
        self._on_drained = on_drained
        self._decoder = streamframes.Decoder(streamframes.MAX_RECORD, expect_magic=True)
        self._head = Response(200)

    # ---- what the session does

    def write(self, data: bytes) -> None:
        for record in self._decoder.feed(data):
            self.contacts.append(wire_contact.parse(wire_contact.unwrap(record).contact_data))
        self.full = self.fills_up
        if self.rate is not None:
            rate, clock = self.rate
            self.full = True
            clock.callLater(len(data) / rate, self._arrived, clock.seconds(), clock)

    def _arrived(self, began: float, clock: Clock) -> None:
        self.took.append(clock.seconds() - began)
        self.drain()

    def end(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True

    # ---- what the test does

    @property
    def is_over(self) -> bool:
        """The client has closed it."""
        return self.ended or self.aborted

    @property
    def names(self) -> list[list[str]]:
        """The types of the messages in each record."""
        return [[message.message_type for message in contact.messages] for contact in self.contacts]

    def open(self, *messages: common.Message, nonce: int = 7) -> None:
        """Answer the first record."""
        self.response.callback(self._head)
        self.send(common.ContactData(sequencing_nonce=nonce, messages=messages))

    def refuse(self, status: int) -> None:
        """Answer with another status."""
        self.response.callback(WholeResponse(status, b"not authorized\n"))

    def send(self, *records: common.ContactData) -> None:
        """Records, in one piece."""
        self.send_raw(b"".join(streamframes.encode(record.SerializeToString()) for record in records))

    def send_raw(self, data: bytes) -> None:
        """Bytes of the response's body."""
        if self._head.body is None:
            self.response.callback(self._head)
        self._head.body.dataReceived(data)

    def acknowledge(self, index: int) -> None:
        """The record of this index."""
        self.send(common.ContactData(ack_index=index))

    def drain(self) -> None:
        """The transport takes more again."""
        self.full = False
        self._on_drained()

    def close(self) -> None:
        """The server ends it."""
        self._head.body.connectionLost(Failure(ResponseDone()))


class Heard(Stats):
    """Statistics: what was told of contacts, as server, size and error."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, Exception | None]] = []
        self.received: list[tuple[str, int, Exception | None]] = []

    def contact_sent(self, server: str, size: int, error: Exception | None) -> None:
        self.sent.append((server, size, error))

    def contact_received(self, server: str, size: int, error: Exception | None) -> None:
        self.received.append((server, size, error))


@dataclass
class Network:
    """Replaces `Transport`: `network.transport` is what a communicator's module is patched with."""

    polls: list[Poll] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    reachable: bool = True
    """False: no stream can be opened."""
    attempts: int = 0
    """To open a stream."""
    hangs: bool = False
    """Connections are neither made nor refused."""
    closed: int = 0
    """Transports."""

    def transport(self, link: Link, settings: ClientSettings, reactor: Any) -> Transport:
        """As the class."""
        return Transport(self, link)


class Transport:
    """Stands in for `fleetspeak.client.comms.http.Transport`."""

    def __init__(self, network: Network, link: Link) -> None:
        self._network = network
        self._link = link
        self._client_id = link.identity.client_id

    @property
    def is_stale(self) -> bool:
        return self._link.identity.client_id != self._client_id

    def post(self, server: Server, path: str, body: IBodyProducer) -> Deferred[Any]:
        assert path == "/message"
        data = body._body  # type: ignore[attr-defined]
        sent = wire_contact.parse(wire_contact.unwrap(data).contact_data)
        poll = Poll(str(server), self._client_id, sent, Deferred())
        self._network.polls.append(poll)
        return poll.response

    def open_stream(self, server: Server, path: str, on_drained: Callable[[], None]) -> Deferred[Any]:
        assert path == "/streaming-message"
        self._network.attempts += 1
        if self._network.hangs:
            return Deferred()
        if not self._network.reachable:
            refused: Deferred[Any] = Deferred()
            refused.errback(Failure(ConnectionRefusedError()))
            return refused
        stream = Stream(str(server), self._client_id, on_drained)
        self._network.streams.append(stream)
        return succeed(stream)

    def close(self) -> Deferred[None]:
        self._network.closed += 1
        return succeed(None)
