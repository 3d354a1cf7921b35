"""What the parts of the contract have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.timestamp_pb2 import Timestamp

from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Contact
from fleetspeak.store.outcome import only

if TYPE_CHECKING:
    from unittest import TestCase  # trial's, which it is mixed into, has no types
else:
    TestCase = object  # a mixin: imported into a test module it must not be collected

SECOND = 10**9
MINUTE = 60 * SECOND

C1 = ClientId(bytes.fromhex("0000000000000001"))
C2 = ClientId(bytes.fromhex("0000000000000002"))
C3 = ClientId(bytes.fromhex("0000000000000003"))


class StoreClock:
    """The time of a store under test, which passes when a test says so."""

    def __init__(self) -> None:
        self.ns = 100_000 * SECOND
        self.chance = 0.5

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return self.ns

    def uniform(self) -> float:
        """What the store gets for a random number."""
        return self.chance

    def set(self, seconds: float) -> None:
        """Set the clock."""
        self.ns = round(seconds * SECOND)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += round(seconds * SECOND)


class StoreCase(TestCase):
    """A test with an empty store and a clock."""

    store: IStore
    clock: StoreClock

    exact_labels = True
    """False: labels that differ only in case, or in blanks at their ends, are one label to this store."""

    source_message_id_size = 100
    """Bytes that this store keeps of a longer source_message_id."""

    def make_store(self) -> IStore:
        """A new, empty store that runs on `self.clock`; not open yet."""
        raise NotImplementedError

    async def setUp(self) -> None:  # type: ignore[override]
        """Open an empty store."""
        self.clock = StoreClock()
        self.store = self.make_store()
        await self.store.open()

    async def tearDown(self) -> None:  # type: ignore[override]
        """Close it."""
        await self.store.close()

    async def add_client(self, client_id: ClientId = C1) -> None:
        """Add a client."""
        await self.store.add_client(client_id, ClientData(b"test key"))

    async def record_contact(self, client_id: ClientId = C1) -> str:
        """Record a poll, give its contact id."""
        return await only(self.store.record_contacts([poll(client_id)]))

    async def result_of(self, message_id: bytes) -> common.MessageResult | None:
        """The result of a message, or None."""
        results = await self.store.message_results([MessageId(message_id)])
        return results.get(MessageId(message_id))

    async def is_pending(self, message_id: bytes) -> bool:
        """Whether a message that is stored waits for a result."""
        return await self.result_of(message_id) is None


def poll(client_id: ClientId = C1) -> Contact:
    """A contact that is a poll."""
    return Contact(client_id, 42, 43, "127.0.0.1")


def message_id(number: int) -> MessageId:
    """A message id that sorts like its number."""
    return MessageId(number.to_bytes(32, "big"))


def to_client(
    number: int, client_id: ClientId = C1, *, service: str = "TestServiceName", created: float = 42
) -> common.Message:
    """A message for a client."""
    return common.Message(
        message_id=message_id(number),
        source=common.Address(service_name="TestSource"),
        destination=common.Address(client_id=client_id, service_name=service),
        message_type="Test message type",
        creation_time=timestamp(created),
        data=AnyProto(type_url=f"test data proto urn {number}", value=b"Test data proto %d" % number),
    )


def from_client(number: int, client_id: ClientId = C1, *, created: float = 42) -> common.Message:
    """A message of a client for a server service."""
    return common.Message(
        message_id=message_id(number),
        source=common.Address(client_id=client_id, service_name="TestServiceName"),
        source_message_id=b"%d" % number,
        destination=common.Address(service_name="TestServiceName"),
        message_type="Test message type",
        creation_time=timestamp(created),
        data=AnyProto(type_url=f"test data proto urn {number}", value=b"Test data proto %d" % number),
    )


def timestamp(seconds: float) -> Timestamp:
    """A protobuf time."""
    time = Timestamp()
    time.FromNanoseconds(round(seconds * SECOND))
    return time


def success(seconds: float) -> common.MessageResult:
    """A result."""
    return common.MessageResult(processed_time=timestamp(seconds))


def failure(seconds: float, reason: str = "broken test message") -> common.MessageResult:
    """A failed result."""
    return common.MessageResult(processed_time=timestamp(seconds), failed=True, failed_reason=reason)


def without_data(message: common.Message) -> common.Message:
    """The same message without its payload."""
    copy = common.Message()
    copy.CopyFrom(message)
    copy.ClearField("data")
    return copy


def numbers(messages: object) -> list[int]:
    """The numbers that messages were made with."""
    assert isinstance(messages, (list, tuple)), messages
    return [int.from_bytes(message.message_id, "big") for message in messages]
