"""Sentences of server-core.md 3, 4 and 5 that no other test names: each test says which."""

from __future__ import annotations

from typing import Any
from unittest import mock

from google.protobuf.any_pb2 import Any as AnyProto
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ConfigError, PermanentError, StoreError
from fleetspeak.ids import ClientId, MessageId
from fleetspeak.pb import common, cpsservice, monitoring, services, system
from fleetspeak.records import Exchange, Label
from fleetspeak.server.services.cps import CpsFactory
from fleetspeak.server.services.manager import DEFAULT_PARALLELISM, PROCESSING_LIMIT, SYSTEM
from fleetspeak.server.services.noop import NoopFactory
from fleetspeak.store.outcome import only
from tests.server.services.doubles import CLIENT, InstantService, SlowService, message
from tests.server.services.test_backlog import BacklogCase
from tests.server.services.test_manager import GOOD, ManagerCase
from tests.server.services.test_system import C1, SystemCase


class InstallationTests(ManagerCase):
    """3.1"""

    def install(self, name: str, factory: Any = None, **fields: Any) -> None:
        config = services.ServiceConfig(name=name, factory="NOOP", **fields)
        self.manager.install(config, [factory or NoopFactory()], lambda _: mock.Mock(service_name=name))

    def test_3_1_the_name_server_is_not_refused(self) -> None:
        self.install("server")
        sent = message("server")
        self.successResultOf(self.process(sent))
        self.assert_processed(sent)

    def test_3_1_a_parallelism_of_0_means_100_and_system_has_100(self) -> None:
        self.assertEqual(DEFAULT_PARALLELISM, 100)
        for name, configured, given in (("a", 0, 100), ("b", 7, 7)):
            self.install(name, max_parallelism=configured)
            self.assertEqual(self.manager.room({}, mock.Mock())[name], given)
        self.manager.add(SYSTEM, InstantService())
        self.assertEqual(self.manager.room({}, mock.Mock())[SYSTEM], 100)

    def test_3_1_a_later_entry_replaces_the_earlier_one(self) -> None:
        first, second = InstantService(), InstantService()
        for service in (first, second):
            factory = NoopFactory()
            factory.make = mock.Mock(return_value=service)  # type: ignore[method-assign]
            with capturedLogs() as lines:
                self.install("hello", factory)
        self.assertEqual(len([line for line in lines if "twice" in line["log_format"]]), 1)
        self.successResultOf(Deferred.fromCoroutine(self.manager.start()))
        self.successResultOf(self.process(message()))
        self.assertEqual((first.events, second.events, len(second.seen)), ([], ["start"], 1))

    def test_3_1_services_before_the_one_that_cannot_start_are_stopped(self) -> None:
        good, bad = InstantService(), InstantService()
        bad.start = mock.Mock(side_effect=ConfigError("no such folder"))  # type: ignore[method-assign]
        self.manager.add("good", good)
        self.manager.add("bad", bad)
        failure = self.failureResultOf(Deferred.fromCoroutine(self.manager.start()), ConfigError)
        self.assertEqual(str(failure.value), 'service "bad" cannot start: no such folder')
        self.assertEqual(good.events, ["start", "stop"])


class StoredTests(BacklogCase):
    """3.2 and 3.3, with a store."""

    def contact(self, *messages: common.Message) -> None:
        """What a contact does: process, then store."""
        self.successResultOf(Deferred.fromCoroutine(self.manager.process(messages, GOOD, True)))
        self.successResultOf(only(self.store.exchange([Exchange(messages)])))

    def test_3_2_messages_to_unknown_services_are_stored_as_failed_and_never_retried(self) -> None:
        sent = message("nobody")
        self.contact(sent)
        result = self.result(sent)
        assert result is not None
        self.assertEqual((result.failed, result.failed_reason), (True, 'unknown service "nobody"'))
        self.assertIsNone(self.successResultOf(self.store.next_overdue()))
        [kept] = self.successResultOf(self.store.get_messages([MessageId(sent.message_id)], want_data=True))
        self.assertFalse(kept.HasField("data"))

    def test_3_2_what_has_no_result_is_pending_with_the_retry_time_for_count_0(self) -> None:
        self.manager.add("hello", SlowService(), max_parallelism=1)
        sent = message()
        done = Deferred.fromCoroutine(self.manager.process([sent], GOOD, True))
        self.clock.advance(PROCESSING_LIMIT)
        self.successResultOf(done)
        self.keep(sent)
        self.assertEqual(self.successResultOf(self.store.next_overdue()), self.now() + 60 * 10**9)

    def test_3_2_a_crash_between_processing_and_storing_makes_the_client_send_again(self) -> None:
        """Nothing is stored then, so the repeat is processed like a new one."""
        service = InstantService()
        self.manager.add("hello", service)
        self.successResultOf(Deferred.fromCoroutine(self.manager.process([message()], GOOD, True)))
        self.contact(message())
        self.assertEqual(len(service.seen), 2)
        self.assertIsNotNone(self.result(message()))

    def test_3_3_a_result_that_cannot_be_written_is_logged_and_the_message_comes_again(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        sent = message()
        self.keep(sent)
        writing = self.store.set_message_results
        self.store.set_message_results = lambda updates: fail(StoreError("disk full"))  # type: ignore[method-assign]
        self.begin()
        with capturedLogs() as lines:
            self.pass_time(66)
        self.assertEqual(len([line for line in lines if "cannot write the results" in line["log_format"]]), 1)
        self.assertIsNone(self.result(sent))
        self.store.set_message_results = writing  # type: ignore[method-assign]
        self.pass_time(70)
        self.assertEqual(len(service.seen), 2)
        self.assertIsNotNone(self.result(sent))

    def test_3_4_a_sender_that_cannot_be_looked_up_does_not_matter(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        self.keep(message(number=1), message(number=2, source=b"vanished"), message(number=3, source=b""))
        self.store.client_data = lambda client_ids: fail(StoreError("gone"))  # type: ignore[method-assign]
        self.begin()
        with capturedLogs() as lines:
            self.pass_time(66)
        self.assertEqual(len(service.seen), 3)
        self.assertEqual(len([line for line in lines if "who sent overdue" in line["log_format"]]), 1)


class LimitTests(ManagerCase):
    """3.4: after 30 s what counts is what the service makes of being cancelled."""

    def test_3_4_a_service_that_ends_well_when_it_is_cancelled(self) -> None:
        for ended, processed in ((None, True), (PermanentError("too late"), True), (RuntimeError("x"), False)):
            service = InstantService()

            def cancel(work: Deferred[None], ended: Exception | None = ended) -> None:
                if ended is None:
                    work.callback(None)
                else:
                    work.errback(ended)

            service.process = lambda _, cancel=cancel: Deferred(cancel)  # type: ignore[method-assign, misc]
            self.manager.add("hello", service)
            sent = message()
            done = self.process(sent)
            self.clock.advance(PROCESSING_LIMIT)
            self.successResultOf(done)
            self.assertEqual(sent.HasField("result"), processed)
        self.flushLoggedErrors(RuntimeError)


class SystemTests(SystemCase):
    """4"""

    def test_4_3_the_services_of_a_client_info_are_ignored(self) -> None:
        info = system.ClientInfoData(services=[system.ClientInfoData.ServiceID(name="a", signature=b"s")])
        self.successResultOf(self.tell("ClientInfo", info))
        self.assertEqual(self.successResultOf(self.store.client_data([C1]))[C1].labels, frozenset())

    def test_4_3_the_store_is_asked_and_not_the_cache(self) -> None:
        """What another server has stored since is taken into account."""
        info = system.ClientInfoData(labels=[common.Label(service_name="client", label="linux")])
        self.successResultOf(self.tell("ClientInfo", info))
        self.successResultOf(self.store.update_client_labels(C1, [Label("client", "old")], [Label("client", "linux")]))
        self.successResultOf(self.tell("ClientInfo", info))
        labels = self.successResultOf(self.store.client_data([C1]))[C1].labels
        self.assertEqual(labels, {Label("client", "linux")})

    def test_4_4_usage_of_an_unknown_client_fails_for_good(self) -> None:
        usage = monitoring.ResourceUsageData(scope="hello", pid=7)
        usage.process_start_time.seconds, usage.data_timestamp.seconds = 10, 20
        self.failureResultOf(self.tell("ResourceUsage", usage, b"stranger"), PermanentError)


class FactoryTests(SynchronousTestCase):
    """5"""

    def test_5_noop_ignores_its_config_and_takes_everything(self) -> None:
        service = NoopFactory().make(None, mock.Mock())
        self.assertIsNone(service.process(message()))
        self.assertIsNone(NoopFactory.config_type)

    def test_5_cps_is_refused_in_clear_words(self) -> None:
        for config in (None, cpsservice.Config()):
            error = self.assertRaises(ConfigError, CpsFactory().make, config, mock.Mock(service_name="hello"))
            self.assertIn("not supported", str(error))
            self.assertIn("GRPC", str(error))


class FlagTests(BacklogCase):
    """Section 14, messages: priority, background and the blocklist flag reach the service through the store."""

    def test_14_flags_survive_storage(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        sent = message(priority=common.Message.HIGH, background=True)
        sent.annotations.entries.add(key="k", value="v")
        sent.data.CopyFrom(AnyProto(type_url="t", value=b"v"))
        self.keep(sent)
        self.successResultOf(self.store.blacklist_client(ClientId(CLIENT)))
        self.begin()
        self.pass_time(66)
        sent.is_blocklisted_source = True
        self.assertEqual(service.seen, [sent])
