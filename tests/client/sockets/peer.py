"""A process at the other end of a Socket service, as far as its service can tell: it speaks the plain protocol."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from fleetspeak.pb import channel, common, system
from fleetspeak.wire import channelframes
from tests.client.process.children import until

MAGIC = channelframes.MAGIC


class Peer(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.raw = b""
        self.messages: list[common.Message] = []
        """What came, but for LocalAcks."""
        self.acked: list[bytes] = []
        """The ids of the LocalAcks."""
        self.local_acks: list[common.Message] = []
        self.ended: Failure | None = None
        self._decoder = channelframes.Decoder()

    def dataReceived(self, data: bytes) -> None:
        self.raw += data
        for body in self._decoder.feed(data):
            message = common.Message.FromString(body)
            if message.message_type == "LocalAck":
                acked = system.MessageAckData()
                assert message.data.Unpack(acked)
                self.acked.extend(acked.message_ids)
                self.local_acks.append(message)
            else:
                self.messages.append(message)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        self.ended = reason

    # ---- what it does

    def write(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def send(self, *messages: common.Message) -> None:
        for message in messages:
            self.write(channelframes.encode(message.SerializeToString()))

    def begin(self, pid: int = 1234, version: str = "0.5") -> None:
        """Magic number and StartupData."""
        self.write(MAGIC)
        message = common.Message(message_type="StartupData", destination=common.Address(service_name="system"))
        message.data.Pack(channel.StartupData(pid=pid, version=version))
        self.send(message)

    async def close(self) -> None:
        """Close, and wait until it is done."""
        assert self.transport is not None
        self.transport.loseConnection()
        await until(lambda: self.ended is not None)

    @property
    def ended_in_order(self) -> bool:
        return self.ended is not None and isinstance(self.ended.value, ConnectionDone)

    def types(self) -> list[str]:
        return [message.message_type for message in self.messages]


async def connect(path: str, peer: Peer | None = None) -> Peer:
    """Connect to the service, and say nothing."""
    endpoint = UNIXClientEndpoint(reactor, path)
    connected: Any = await connectProtocol(endpoint, peer or Peer())
    assert isinstance(connected, Peer)
    return connected


def from_process(message_type: str, number: int = 1, **fields: Any) -> common.Message:
    """A message of a process to a server service, with an id."""
    return common.Message(
        message_type=message_type,
        source_message_id=b"%016d" % number,
        destination=common.Address(service_name="ServerSide"),
        **fields,
    )
