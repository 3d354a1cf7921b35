"""A contact pipeline on a store in memory, with the knobs that tests turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from fleetspeak import ids
from fleetspeak.core.authorization import CheckedSignature
from fleetspeak.errors import StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IAuthorizer, IServerStats
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Exchange, Exchanged
from fleetspeak.server.authorizers import AllowAll
from fleetspeak.server.broadcasts import BroadcastManager
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.contact.handler import ContactHandler
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.enrolment import Enrolment
from fleetspeak.server.stats import ServerStats
from fleetspeak.store.memory import MemoryStore

T = TypeVar("T")

ADDRESS = "192.0.2.7:4242"
START_NS = 1_700_000_000 * 10**9


def identity(name: str = "alice") -> Identity:
    """Somebody.  The pipeline takes any bytes for a key."""
    key = f"the key of {name}".encode()
    return Identity(key, ids.client_id_of_key(key))


def from_client(number: int = 1, service: str = "greeter", **fields: Any) -> common.Message:
    """A message as a client sends it."""
    message = common.Message(
        source=common.Address(service_name=service),
        destination=common.Address(service_name=service),
        source_message_id=b"source message %d" % number,
        message_type="Greeting",
        **fields,
    )
    message.data.type_url, message.data.value = "type.googleapis.com/some.Type", b"payload %d" % number
    return message


def id_of(message: common.Message, client_id: ClientId) -> MessageId:
    """The id that the server gives to a client's message."""
    return ids.message_id_of(client_id, message.source.service_name, message.source_message_id)


def for_client(client_id: ClientId, number: int = 1, service: str = "greeter", kind: str = "Hello") -> common.Message:
    """A message for a client, complete as the store wants it."""
    message = common.Message(
        message_id=number.to_bytes(32, "big"),
        source=common.Address(service_name="operator"),
        destination=common.Address(client_id=client_id, service_name=service),
        message_type=kind,
    )
    message.creation_time.FromNanoseconds(START_NS - 10**9)
    message.data.type_url, message.data.value = "type.googleapis.com/some.Type", b"for client %d" % number
    return message


def wrapped(
    *messages: common.Message,
    labels: Sequence[str] = (),
    tokens: dict[str, int] | None = None,
    signatures: Sequence[common.Signature] = (),
    **fields: Any,
) -> common.WrappedContactData:
    """What a client sends in one contact."""
    data = common.ContactData(messages=messages, AllowedMessages=tokens or {}, **fields)
    return common.WrappedContactData(contact_data=data.SerializeToString(), client_labels=labels, signatures=signatures)


class RecordingIngestor:
    """Notes what it is given, and does with it what the test says: by default each message succeeds."""

    def __init__(self) -> None:
        self.seen: list[common.Message] = []
        self.calls: list[tuple[int, ClientData | None, bool]] = []
        self.verdict: Callable[[common.Message], common.MessageResult | None] = lambda message: success()
        self.waiting_for: Deferred[None] | None = None
        self.error: Exception | None = None
        self.during: Callable[[], None] = lambda: None

    async def process(self, messages: Sequence[common.Message], client: ClientData | None, first_try: bool) -> None:
        self.calls.append((len(messages), client, first_try))
        for message in messages:
            copy = common.Message()
            copy.CopyFrom(message)
            self.seen.append(copy)
        self.during()
        if self.waiting_for is not None:
            await self.waiting_for
        if self.error is not None:
            raise self.error
        for message in messages:
            result = self.verdict(message)
            if result is not None:
                message.result.CopyFrom(result)
                message.ClearField("data")


def success() -> common.MessageResult:
    """As a service gives it."""
    result = common.MessageResult()
    result.processed_time.FromNanoseconds(START_NS)
    return result


class TestStore(MemoryStore):
    """A store whose exchanges can be held back, and can fail."""

    __test__ = False

    def __init__(self, now_ns: Callable[[], int]) -> None:
        super().__init__(now_ns=now_ns, uniform=lambda: 0.0)
        self.exchanges: list[Exchange] = []
        self.is_holding = False
        self.held: list[tuple[Deferred[None], Sequence[Exchange]]] = []
        self.errors: list[StoreError] = []
        """Of the next exchanges."""
        self.open()

    def exchange(self, exchanges: Sequence[Exchange]) -> Deferred[list[Exchanged | StoreError]]:
        self.exchanges.extend(exchanges)
        if self.errors:
            error = self.errors.pop(0)
            failed: Deferred[list[Exchanged | StoreError]] = Deferred()
            failed.callback([error for _ in exchanges])
            return failed
        if not self.is_holding:
            return super().exchange(exchanges)
        gate: Deferred[None] = Deferred()
        self.held.append((gate, exchanges))
        return gate.addCallback(lambda _: super(TestStore, self).exchange(exchanges))

    def release(self, index: int = 0) -> None:
        """Let a held exchange be carried out."""
        self.held.pop(index)[0].callback(None)


class World:
    """All that a pipeline needs."""

    def __init__(self, authorizer: IAuthorizer | None = None, collectors: Sequence[IServerStats] = ()) -> None:
        self.clock = Clock()
        self.stats = ServerStats(collectors, self.clock)
        self.store = TestStore(self.now_ns)
        self.ingestor = RecordingIngestor()
        self.cache = ClientCache(self.store.client_data, self.clock.seconds)
        self.dispatcher = Dispatcher(self.stats)
        self.nonces = iter(range(1001, 10_000))
        self.broadcasts = BroadcastManager(
            self.store, self.dispatcher, self.clock, self.now_ns, uniform=lambda: 0.0, stats=self.stats
        )
        self.enrolment = Enrolment(self.store, self.clock)
        self.enrolment.is_open = True
        self.contacts = ContactHandler(
            self.store,
            authorizer or AllowAll(),
            self.ingestor,
            self.cache,
            self.dispatcher,
            now_ns=self.now_ns,
            nonce=lambda: next(self.nonces),
            broadcaster=self.broadcasts,
            enrolment=self.enrolment,
            stats=self.stats,
        )

    def now_ns(self) -> int:
        return START_NS + int(self.clock.seconds() * 10**9)

    def insert(self, *messages: common.Message) -> None:
        """As the admin API does: stored, then dispatched."""
        self.now(self.store.store_messages(messages))
        for message in messages:
            self.dispatcher.dispatch(ClientId(message.destination.client_id))

    def stored(self, *message_ids: bytes) -> list[common.Message]:
        return self.now(self.store.get_messages([MessageId(one) for one in message_ids], True))

    def pending(self, client_id: ClientId) -> list[common.Message]:
        return self.now(self.store.pending_messages([client_id]))

    @staticmethod
    def now(deferred: Deferred[T]) -> T:
        """The result of what is done at once."""
        results: list[T] = []
        errors: list[Any] = []
        deferred.addCallbacks(results.append, errors.append)
        if errors:
            errors[0].raiseException()
        (result,) = results
        return result


class Gatekeeper(AllowAll):
    """An authorizer that refuses what the test says, and notes what it is told."""

    def __init__(self) -> None:
        self.refuse: set[str] = set()
        self.told: list[tuple[str, Any]] = []
        self.tags: dict[str, str] = {}

    def allow_connection(self, address: str) -> bool:
        self.told.append(("connection", address))
        return "connection" not in self.refuse

    def allow_contact(self, address: str, claim: Any) -> bool:
        self.told.append(("contact", claim))
        return "contact" not in self.refuse

    def allow_client(self, address: str, claim: Any, client: ClientData | None) -> bool:
        self.told.append(("client", client))
        return "client" not in self.refuse

    def validate(
        self, address: str, claim: Any, client: ClientData | None, signatures: Sequence[CheckedSignature]
    ) -> dict[str, str] | None:
        self.told.append(("signatures", list(signatures)))
        return None if "signatures" in self.refuse else self.tags
