"""How messages of the server side enter the system (server-core.md section 8, InsertMessage)."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fleetspeak.errors import InvalidRecord, NotFound, StoreError, TemporaryError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import INotifier
from fleetspeak.pb import common
from fleetspeak.records import Claim, ClientData, ClientStream, Contact
from fleetspeak.server.cache import ClientCache
from fleetspeak.server.dispatch import Dispatcher
from fleetspeak.server.inserts import MAX_MESSAGE, Inserter
from fleetspeak.server.notify.local import LocalNotifier
from fleetspeak.server.services.backlog import Backlog
from fleetspeak.server.services.manager import ServiceContext, ServiceManager
from fleetspeak.server.stats import ServerStats
from fleetspeak.store.memory import MemoryStore
from fleetspeak.store.outcome import only
from fleetspeak.testing.serverside import RecordingServerStats
from tests.server.services.doubles import InstantService, SlowService

START = 100_000 * 10**9
C1 = ClientId(b"\0\0\0\0\0\0\0\1")


@implementer(INotifier)
class OtherServers:
    """Notes who was notified where."""

    reaches_others = True

    def __init__(self) -> None:
        self.told: list[tuple[str, ClientId]] = []

    def notify(self, address: str, client_id: ClientId) -> None:
        self.told.append((address, client_id))

    def broadcasts_changed(self) -> None:
        pass

    def stop(self) -> None:
        pass


class InsertCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(now_ns=self.now, uniform=lambda: 0.0)
        self.successResultOf(self.store.open())
        self.successResultOf(self.store.add_client(C1, ClientData(key=b"k")))
        self.cache = ClientCache(self.store.client_data, self.clock.seconds)
        self.dispatcher = Dispatcher()
        self.manager = ServiceManager(self.clock, self.now)
        self.backlog = Backlog(self.store, self.manager, self.clock, self.now)
        self.inserter = self.make_inserter(LocalNotifier(self.dispatcher, self.clock))

    def now(self) -> int:
        return START + int(self.clock.seconds() * 1e9)

    def make_inserter(self, notifier: INotifier) -> Inserter:
        self.heard = RecordingServerStats()
        return Inserter(
            self.store,
            self.cache.lookup,
            self.dispatcher.dispatch,
            notifier,
            self.manager,
            self.backlog,
            self.now,
            ServerStats([self.heard], self.clock),
        )

    def insert(self, message: common.Message) -> Deferred[None]:
        return Deferred.fromCoroutine(self.inserter.insert(message))

    def result(self, message: common.Message) -> common.MessageResult | None:
        message_id = MessageId(message.message_id)
        return self.successResultOf(self.store.message_results([message_id])).get(message_id)


def to_client(client_id: bytes = C1, service: str = "hello", source: str = "greeter") -> common.Message:
    message = common.Message(message_type="Greeting")
    message.source.service_name, message.destination.service_name = source, service
    message.destination.client_id = client_id
    message.data.value = b"payload"
    return message


def to_server(service: str = "hello") -> common.Message:
    return to_client(b"", service)


class ClientMessageTests(InsertCase):
    def test_it_waits_for_the_client_with_id_and_time_filled_in(self) -> None:
        """server-core 8, InsertMessage 2."""
        message = to_client()
        self.successResultOf(self.insert(message))
        self.assertEqual(len(message.message_id), 32)
        self.assertEqual(message.creation_time.ToNanoseconds(), START)
        self.clock.advance(1)
        [claimed] = self.successResultOf(only(self.store.client_messages_for_processing([Claim(C1)])))
        self.assertEqual(claimed.data.value, b"payload")

    def test_it_is_told_as_saved_for_a_client_or_not(self) -> None:
        for_client, for_server = to_client(), to_server()
        self.successResultOf(self.insert(for_client))
        self.successResultOf(self.insert(for_server))
        known = ClientData(key=b"k")
        self.assertEqual(self.heard.calls("message_saved"), [(for_client, True, known), (for_server, False, None)])

    def test_the_clients_stream_here_is_woken_after_the_commit(self) -> None:
        woken: list[int] = []
        self.dispatcher.register(C1, lambda: woken.append(self.successResultOf(self.store.pending_message_count([C1]))))
        self.successResultOf(self.insert(to_client()))
        self.assertEqual(woken, [1])

    def test_inserting_it_again_is_no_error_and_stores_it_once(self) -> None:
        """server-core 8, InsertMessage 4."""
        message = to_client()
        for _ in range(2):
            self.successResultOf(self.insert(message))
        self.assertEqual(self.successResultOf(self.store.pending_message_count([C1])), 1)

    def test_what_is_wrong_is_said_in_upstreams_words(self) -> None:
        """server-core 8, InsertMessage 1 and 3."""
        unknown, bad, too_large = to_client(b"stranger"), to_client(b"12"), to_client()
        too_large.data.value = b"x" * MAX_MESSAGE
        for message, error, words in (
            (common.Message(), InvalidRecord, "message must have Destination"),
            (to_client(source=""), InvalidRecord, "message must have Source"),
            (unknown, NotFound, "expected 1 destination client result, got 0"),
            (bad, InvalidRecord, "ClientID must be 8 bytes"),
            (too_large, InvalidRecord, "which exceeds the 2097152-byte limit"),
            (common.Message(message_id=b"1"), InvalidRecord, "message must have Destination"),
        ):
            failure = self.failureResultOf(self.insert(message), error)
            self.assertIn(words, str(failure.value))
        short = to_client()
        short.message_id = b"short"
        self.failureResultOf(self.insert(short), InvalidRecord)

    def test_a_message_of_exactly_the_limit_is_taken(self) -> None:
        """server-core 8, InsertMessage 3."""
        message = to_client()
        message.message_id = b"m" * 32
        message.creation_time.seconds = 1
        message.data.value = b"x" * (MAX_MESSAGE - 1000)
        message.data.value += b"x" * (MAX_MESSAGE - message.ByteSize())
        self.assertEqual(message.ByteSize(), MAX_MESSAGE)
        self.successResultOf(self.insert(message))


class NotificationTests(InsertCase):
    def setUp(self) -> None:
        super().setUp()
        self.others = OtherServers()
        self.inserter = self.make_inserter(self.others)
        contact = Contact(C1, 1, 2, "1.2.3.4:5", streaming_to="there:2")
        self.successResultOf(only(self.store.record_contacts([contact])))

    def test_the_server_that_holds_the_stream_is_told(self) -> None:
        """server-core 8, InsertMessage 5."""
        self.successResultOf(self.insert(to_client()))
        self.assertEqual(self.others.told, [("there:2", C1)])

    def test_not_when_the_stream_is_here(self) -> None:
        self.dispatcher.register(C1, lambda: None)
        self.successResultOf(self.insert(to_client()))
        self.assertEqual(self.others.told, [])

    def test_not_when_the_stream_must_be_over(self) -> None:
        """server-core 8, InsertMessage 5."""
        self.clock.advance(11 * 60)
        self.successResultOf(self.insert(to_client()))
        self.assertEqual(self.others.told, [])

    def test_a_failure_is_only_logged(self) -> None:
        """server-core 8, InsertMessage 5."""
        self.store.client_streams = lambda ids: fail(StoreError("gone"))  # type: ignore[method-assign]
        with capturedLogs() as lines:
            self.successResultOf(self.insert(to_client()))
        self.assertEqual([str(line["error"]) for line in lines], ["gone"])

    def test_the_caller_does_not_wait_for_it(self) -> None:
        """What is known of the stream may take long to find out; stopping waits for that."""
        found: Deferred[dict[ClientId, ClientStream]] = Deferred()
        self.store.client_streams = lambda ids: found  # type: ignore[method-assign]
        self.successResultOf(self.insert(to_client()))
        stopped = Deferred.fromCoroutine(self.inserter.stop())
        self.assertNoResult(stopped)
        found.callback({C1: ClientStream("there:2", START)})
        self.successResultOf(stopped)
        self.assertEqual(self.others.told, [("there:2", C1)])

    def test_nobody_is_looked_up_for_a_server_that_is_alone(self) -> None:
        self.inserter = self.make_inserter(LocalNotifier(self.dispatcher, self.clock))
        self.store.client_streams = None  # type: ignore[method-assign, assignment]
        self.successResultOf(self.insert(to_client()))


class ServerMessageTests(InsertCase):
    """server-core.md 8 item 6 [improve]: a message to a server service is processed at once."""

    def test_it_is_processed_at_once(self) -> None:
        """server-core 8, InsertMessage 6."""
        service = InstantService()
        self.manager.add("hello", service)
        message = to_server()
        self.successResultOf(self.insert(message))
        self.assertEqual([seen.data.value for seen in service.seen], [b"payload"])
        self.assertIsNotNone(self.result(message))

    def test_the_caller_does_not_wait_for_the_service(self) -> None:
        service = SlowService()
        self.manager.add("hello", service)
        message = to_server()
        self.successResultOf(self.insert(message))
        self.assertIsNone(self.result(message))
        service.finish()
        self.assertIsNotNone(self.result(message))

    def test_a_temporary_failure_leaves_it_to_the_backlog(self) -> None:
        service = InstantService(TemporaryError("no"))
        self.manager.add("hello", service)
        message = to_server()
        self.successResultOf(self.insert(message))
        self.assertIsNone(self.result(message))
        service.error = None
        self.backlog.start()
        for _ in range(66):
            self.clock.advance(1)
        self.assertIsNotNone(self.result(message))
        self.successResultOf(Deferred.fromCoroutine(self.backlog.stop()))

    def test_an_unknown_service_fails_it(self) -> None:
        message = to_server("nobody")
        self.successResultOf(self.insert(message))
        result = self.result(message)
        assert result is not None
        self.assertEqual(result.failed_reason, 'unknown service "nobody"')
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_a_repeat_is_not_processed_again(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        message = to_server()
        message.message_id = b"m" * 32
        for _ in range(2):
            copy = common.Message()
            copy.CopyFrom(message)
            self.successResultOf(self.insert(copy))
        self.assertEqual(len(service.seen), 1)

    def test_stop_waits_for_what_is_being_processed(self) -> None:
        service = SlowService()
        self.manager.add("hello", service)
        self.successResultOf(self.insert(to_server()))
        stopped = Deferred.fromCoroutine(self.inserter.stop())
        self.assertNoResult(stopped)
        service.finish()
        self.successResultOf(stopped)

    def test_a_store_that_fails_afterwards_is_one_line(self) -> None:
        self.manager.add("hello", InstantService())
        self.store.set_message_results = lambda updates: fail(StoreError("disk full"))  # type: ignore[method-assign]
        with capturedLogs() as lines:
            self.successResultOf(self.insert(to_server()))
        self.assertEqual([str(line["error"]) for line in lines], ["disk full"])


class ContextTests(InsertCase):
    """What a service may use."""

    def setUp(self) -> None:
        super().setUp()
        self.context = ServiceContext("greeter", self.clock, self.inserter.insert, self.cache.lookup)

    def test_a_service_sends_as_itself(self) -> None:
        """server-core 3.6."""
        message = to_client(source="system")
        message.source.client_id = C1

        async def send() -> None:
            await self.context.send(message)

        self.successResultOf(Deferred.fromCoroutine(send()))
        [stored] = self.successResultOf(self.store.get_messages([MessageId(message.message_id)], True))
        self.assertEqual(stored.source, common.Address(service_name="greeter"))

    def test_a_service_looks_up_a_client(self) -> None:
        """server-core 3.6."""

        async def look(client_id: ClientId) -> ClientData | None:
            return await self.context.client_data(client_id)

        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(look(C1))), ClientData(key=b"k"))
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(look(ClientId(b"stranger")))))

    def test_two_services_may_send_to_each_other_while_they_process(self) -> None:
        class Forwarder(InstantService):
            context = self.context

            async def process(self, message: common.Message) -> None:  # type: ignore[override]
                await self.context.send(to_server("sink"))

        sink = InstantService()
        self.manager.add("forwarder", Forwarder(), max_parallelism=1)
        self.manager.add("sink", sink)
        self.successResultOf(self.insert(to_server("forwarder")))
        self.assertEqual(len(sink.seen), 1)
