"""What collectors hear of messages and their services: server-core 9.1, with 3.2, 3.3, 3.4, 4.4 and 4.5."""

from __future__ import annotations

from google.protobuf.message import Message as ProtobufMessage
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import PermanentError, StoreError, TemporaryError
from fleetspeak.ids import ClientId
from fleetspeak.pb import common, monitoring
from fleetspeak.records import ClientData, Label
from fleetspeak.server.services.backlog import Backlog
from fleetspeak.server.services.manager import PROCESSING_LIMIT, ServiceManager
from fleetspeak.server.services.runner import LINE_FACTOR
from fleetspeak.server.services.system import SystemService
from fleetspeak.server.stats import ServerStats
from fleetspeak.store.memory import MemoryStore
from fleetspeak.testing.serverside import RecordingServerStats
from tests.server.services.doubles import CLIENT, InstantService, SlowService, StubbornService, message

NOW = 1_700_000_000 * 10**9
KNOWN = ClientData(key=b"k", labels=frozenset({Label("client", "linux")}))


class CountingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.heard = RecordingServerStats()
        self.stats = ServerStats([self.heard], self.clock)
        self.manager = ServiceManager(self.clock, lambda: NOW, self.stats)

    def process(self, *messages: common.Message, first_try: bool = True) -> Deferred[None]:
        return Deferred.fromCoroutine(self.manager.process(messages, KNOWN, first_try))


class OutcomeTests(CountingCase):
    def test_3_2_a_new_message_is_ingested_before_it_is_processed_with_what_is_known_of_its_client(self) -> None:
        order: list[str] = []

        class Noting(InstantService):
            def process(self, message: common.Message) -> None:
                order.append("service")

        self.manager.add("hello", Noting())
        self.heard.message_ingested = lambda *_: order.append("ingested")  # type: ignore[method-assign]
        self.successResultOf(self.process(message()))
        self.assertEqual(order, ["ingested", "service"])

    def test_3_2_ingested_is_told_with_the_payload(self) -> None:
        sizes = []
        self.manager.add("hello", InstantService())
        self.heard.message_ingested = lambda one, *rest: sizes.append((len(one.data.value), *rest))  # type: ignore[method-assign]
        self.successResultOf(self.process(message()))
        self.assertEqual(sizes, [(len(b"payload"), False, KNOWN)])

    def test_3_4_success_is_processed_with_how_long_the_service_took(self) -> None:
        slow = SlowService()
        self.manager.add("hello", slow)
        sent = message()
        done = self.process(sent)
        self.clock.advance(3)
        self.assertEqual(self.heard.calls("message_processed"), [])
        slow.finish()
        self.successResultOf(done)
        self.assertEqual(self.heard.calls("message_processed"), [(sent, "hello", 3, True, KNOWN)])

    def test_3_4_a_service_that_is_done_at_once_is_told_as_well(self) -> None:
        self.manager.add("hello", InstantService())
        sent = message()
        self.successResultOf(self.process(sent))
        self.assertEqual(self.heard.calls("message_processed"), [(sent, "hello", 0, True, KNOWN)])

    def test_3_4_a_temporary_error_and_any_other_are_told_apart(self) -> None:
        for name, error, temporary in (
            ("now", TemporaryError("not now"), True),
            ("never", PermanentError("never"), False),
            ("broken", RuntimeError("ours: counts as temporary"), True),
        ):
            self.manager.add(name, InstantService(error))
            sent = message(name)
            self.successResultOf(self.process(sent))
            self.assertEqual(
                self.heard.calls("message_errored").pop(), (sent, name, 0, temporary, True, KNOWN), msg=name
            )
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual(self.heard.calls("message_processed"), [])

    def test_3_4_one_that_takes_too_long_errs_for_now_whether_it_cares_for_being_cancelled_or_not(self) -> None:
        for name, service in (("slow", SlowService()), ("stubborn", StubbornService())):
            self.manager.add(name, service)
            sent = message(name)
            done = self.process(sent)
            self.clock.advance(PROCESSING_LIMIT)
            self.successResultOf(done)
            self.assertEqual(
                self.heard.calls("message_errored").pop(), (sent, name, PROCESSING_LIMIT, True, True, KNOWN), msg=name
            )
        self.assertEqual(len(self.heard.calls("message_errored")), 2)

    def test_3_4_what_a_busy_service_has_no_place_for_is_dropped(self) -> None:
        slow = SlowService()
        self.manager.add("hello", slow, max_parallelism=1)
        sent = [message(number=n) for n in range(LINE_FACTOR + 2)]
        done = self.process(*sent)
        self.assertEqual(self.heard.calls("message_dropped"), [(sent[-1], "hello", True, KNOWN)])
        self.clock.advance(PROCESSING_LIMIT)  # and what has waited in vain, too
        self.successResultOf(done)
        self.assertEqual(len(self.heard.calls("message_dropped")), LINE_FACTOR + 1)
        self.assertEqual(len(self.heard.calls("message_ingested")), len(sent))

    def test_waiting_in_line_is_not_the_services_time(self) -> None:
        slow = SlowService()
        self.manager.add("hello", slow, max_parallelism=1)
        done = self.process(message(number=1), message(number=2))
        self.clock.advance(5)
        slow.finish()
        self.clock.advance(2)
        slow.finish()
        self.successResultOf(done)
        self.assertEqual([call[2] for call in self.heard.calls("message_processed")], [5, 2])

    def test_3_2_a_message_to_an_unknown_service_errs_without_being_ingested(self) -> None:
        sent = message("nowhere")
        self.successResultOf(self.process(sent))
        self.assertEqual(self.heard.told, [("message_errored", (sent, "nowhere", 0, True, True, None))])

    def test_3_3_what_comes_from_the_backlog_is_backlogged_and_no_first_try(self) -> None:
        times = [NOW]
        store = MemoryStore(now_ns=lambda: times[0], uniform=lambda: 0.0)
        self.successResultOf(store.open())
        self.successResultOf(store.add_client(CLIENT, KNOWN))
        self.successResultOf(store.store_messages([message(), message("nowhere", 1)]))
        times[0] += 3600 * 10**9
        self.manager.add("hello", InstantService())
        backlog = Backlog(store, self.manager, self.clock, lambda: times[0], lambda: 0.0)
        backlog.start()
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(backlog.stop())))
        ((_, backlogged, client),) = self.heard.calls("message_ingested")
        self.assertEqual((backlogged, client), (True, KNOWN))
        ((*_, first_try, client),) = self.heard.calls("message_processed")
        self.assertEqual((first_try, client), (False, KNOWN))
        ((*_, first_try, client),) = self.heard.calls("message_errored")
        self.assertEqual((first_try, client), (False, None))

    def test_nobody_who_listens_costs_nothing(self) -> None:
        manager = ServiceManager(self.clock, lambda: NOW)
        manager.add("hello", InstantService())
        asked: list[object] = []

        def client_of(one: common.Message) -> None:
            asked.append(one)

        self.successResultOf(Deferred.fromCoroutine(manager.run([message()], True, client_of)))
        self.assertEqual(asked, [])


class SystemTests(CountingCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = MemoryStore(now_ns=lambda: NOW, uniform=lambda: 0.0)
        self.successResultOf(self.store.open())
        self.successResultOf(self.store.add_client(CLIENT, KNOWN))
        self.known: Deferred[ClientData | None] = succeed(KNOWN)
        self.manager.add("system", self.system())

    def system(self) -> SystemService:
        return SystemService(self.store, lambda _: None, lambda: NOW, self.clock, lookup=self.look_up, stats=self.stats)

    def look_up(self, _: ClientId) -> Deferred[ClientData | None]:
        return self.known

    def tell(self, kind: str, data: ProtobufMessage) -> common.Message:
        told = message("system")
        told.message_type = kind
        told.data.Pack(data)
        self.successResultOf(self.process(told))
        return told

    def usage(self) -> monitoring.ResourceUsageData:
        usage = monitoring.ResourceUsageData(scope="greeter", version="1.0")
        usage.process_start_time.seconds, usage.data_timestamp.seconds = 1, 2
        return usage

    def test_4_4_resource_usage_is_told_with_what_the_cache_knows_of_the_client_then_stored(self) -> None:
        self.tell("ResourceUsage", self.usage())
        self.assertEqual(self.heard.calls("resource_usage_received"), [(CLIENT, self.usage(), KNOWN)])
        self.assertEqual(len(self.successResultOf(self.store.resource_usage(CLIENT, 0, 2 * NOW))), 1)

    def test_4_5_a_kill_notification_is_told(self) -> None:
        kill = monitoring.KillNotification(service="greeter", reason=monitoring.KillNotification.MEMORY_EXCEEDED)
        told = self.tell("KillNotification", kill)
        self.assertEqual(self.heard.calls("kill_notification_received"), [(CLIENT, kill, KNOWN)])
        self.assertTrue(told.HasField("result"))

    def test_a_store_that_cannot_say_who_it_is_does_not_lose_the_record(self) -> None:
        self.known = fail(StoreError("gone"))
        told = self.tell("ResourceUsage", self.usage())
        self.assertEqual(self.heard.calls("resource_usage_received"), [(CLIENT, self.usage(), None)])
        self.assertFalse(told.result.failed)
