"""What becomes of messages at services that work, fail, dawdle or do not exist."""

from __future__ import annotations

from typing import Any
from unittest import mock

from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ConfigError, NotReady, PermanentError, TemporaryError
from fleetspeak.pb import common, grpcservice, services
from fleetspeak.records import ClientData
from fleetspeak.server.services.manager import PROCESSING_LIMIT, STOP_GRACE, ServiceManager
from fleetspeak.server.services.noop import NoopFactory
from fleetspeak.server.services.outcome import cut
from fleetspeak.server.services.runner import LINE_BYTES, LINE_FACTOR
from fleetspeak.server.services.saver import MessageSaverFactory
from tests.server.services.doubles import InstantService, SlowService, StubbornService, message

NOW = 1_700_000_000_123_456_789
GOOD = ClientData(key=b"k")
BAD = ClientData(key=b"k", blacklisted=True)


class ManagerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.manager = ServiceManager(self.clock, now_ns=lambda: NOW)

    def process(self, *messages: common.Message, client: ClientData | None = GOOD) -> Deferred[None]:
        return Deferred.fromCoroutine(self.manager.process(messages, client, first_try=True))

    def assert_pending(self, *messages: common.Message) -> None:
        for each in messages:
            self.assertFalse(each.HasField("result"))
            self.assertEqual(each.data.value, b"payload")

    def assert_processed(self, *messages: common.Message) -> None:
        for each in messages:
            self.assertEqual(each.result.processed_time.ToNanoseconds(), NOW)
            self.assertFalse(each.result.failed)
            self.assertFalse(each.HasField("data"))

    def assert_failed(self, failed: common.Message, reason: str) -> None:
        self.assertTrue(failed.result.failed)
        self.assertEqual(failed.result.failed_reason, reason)
        self.assertEqual(failed.result.processed_time.ToNanoseconds(), NOW)
        self.assertFalse(failed.HasField("data"))


class OutcomeTests(ManagerCase):
    def test_success_attaches_a_result_and_drops_the_payload(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        sent = message()
        self.successResultOf(self.process(sent))
        self.assert_processed(sent)
        self.assertEqual(service.seen[0].data.value, b"payload")

    def test_a_service_that_is_done_at_once_costs_no_deferred(self) -> None:
        self.manager.add("hello", InstantService())
        with mock.patch("fleetspeak.server.services.runner.Deferred", side_effect=AssertionError):
            self.successResultOf(self.process(*(message(number=n) for n in range(10))))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_temporary_error_leaves_the_message_pending(self) -> None:
        self.manager.add("hello", InstantService(TemporaryError("not now")))
        sent = message()
        self.successResultOf(self.process(sent))
        self.assert_pending(sent)

    def test_a_permanent_error_becomes_the_failed_reason(self) -> None:
        self.manager.add("hello", InstantService(PermanentError("never")))
        sent = message()
        self.successResultOf(self.process(sent))
        self.assert_failed(sent, "never")

    def test_a_reason_of_901_letters_is_stored_as_897_and_three_dots(self) -> None:
        """server-core.md 13."""
        self.manager.add("hello", InstantService(PermanentError("a" * 901)))
        sent = message()
        self.successResultOf(self.process(sent))
        self.assert_failed(sent, "a" * 897 + "...")

    def test_an_unexpected_exception_is_logged_and_leaves_the_message_pending(self) -> None:
        self.manager.add("hello", InstantService(ZeroDivisionError("oops")))
        sent = [message(number=n) for n in range(3)]
        self.successResultOf(self.process(*sent))
        self.assert_pending(*sent)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1, "one traceback in 10 s is enough")

    def test_a_service_that_returns_nonsense_ends_nothing(self) -> None:
        service = InstantService()
        service.process = lambda message: True  # type: ignore[method-assign, assignment, return-value]
        self.manager.add("hello", service)
        sent = message()
        self.successResultOf(self.process(sent))
        self.assert_pending(sent)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_a_message_to_an_unknown_service_ends_as_failed(self) -> None:
        """server-core.md 13."""
        sent = message("nobody")
        self.successResultOf(self.process(sent))
        self.assert_failed(sent, 'unknown service "nobody"')

    def test_a_result_and_a_flag_that_the_sender_made_up_do_not_survive(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        sent = message(is_blocklisted_source=True, result=common.MessageResult(failed=True, failed_reason="x"))
        self.successResultOf(self.process(sent))
        self.assert_processed(sent)
        self.assertEqual(sent.result.failed_reason, "")
        self.assertFalse(service.seen[0].is_blocklisted_source)

    def test_the_service_sees_that_the_sender_is_blacklisted(self) -> None:
        service = InstantService()
        self.manager.add("hello", service)
        self.successResultOf(self.process(message(), client=BAD))
        self.assertTrue(service.seen[0].is_blocklisted_source)

    @given(st.text(max_size=1200), st.integers(3, 1000))
    def test_a_cut_reason_fits_and_is_text(self, text: str, limit: int) -> None:
        shorter = cut(text, limit)
        self.assertLessEqual(len(shorter.encode()), limit)
        if len(text.encode()) <= limit:
            self.assertEqual(shorter, text)


class ParallelismTests(ManagerCase):
    def setUp(self) -> None:
        super().setUp()
        self.service = SlowService()
        self.manager.add("hello", self.service, max_parallelism=5)

    def test_what_exceeds_the_limit_waits_in_line(self) -> None:
        sent = [message(number=n) for n in range(12)]
        done = self.process(*sent)
        self.assertEqual(len(self.service.running), 5)
        self.service.finish(5)
        self.assertEqual(len(self.service.running), 5)
        self.service.finish(5)
        self.assertEqual(len(self.service.running), 2)
        self.assertNoResult(done)
        self.service.finish(2)
        self.successResultOf(done)
        self.assert_processed(*sent)

    def test_a_full_line_leaves_the_rest_pending_and_says_overloaded_once(self) -> None:
        room = 5 + 5 * LINE_FACTOR
        sent = [message(number=n) for n in range(room + 7)]
        with capturedLogs() as lines:
            done = self.process(*sent)
            self.service.finish(room)
        self.successResultOf(done)
        self.assert_processed(*sent[:room])
        self.assert_pending(*sent[room:])
        overloaded = [line for line in lines if "Overloaded" in (line["log_format"] or "")]
        self.assertEqual(len(overloaded), 1)

    def test_the_line_is_bounded_in_bytes_too(self) -> None:
        """server-core.md 3.4: what a service cannot take now waits in the store, not in memory."""
        running = self.process(*(message(number=n) for n in range(5)))
        sent = [message(number=10 + n) for n in range(6)]
        for each in sent:
            each.data.value = bytes(LINE_BYTES // 4)
        with capturedLogs() as lines:
            done = self.process(*sent)
        self.assertEqual(len([line for line in lines if "Overloaded" in (line["log_format"] or "")]), 1)
        self.service.finish(5)
        self.service.finish(4)
        self.successResultOf(done)
        self.assert_processed(*sent[:4])
        self.assertFalse(any(each.HasField("result") for each in sent[4:]))
        self.successResultOf(running)

    def test_overloaded_is_said_at_most_once_in_10_seconds(self) -> None:
        """server-core.md 3.4."""
        self.process(*(message(number=n) for n in range(5 + 5 * LINE_FACTOR)))
        with capturedLogs() as lines:
            for number in range(100, 121):
                self.successResultOf(self.process(message(number=number)))
                self.clock.advance(1)
        self.assertEqual([line["more"] for line in lines], [0, 9, 9])
        self.clock.advance(PROCESSING_LIMIT)

    def test_the_limit_is_one_of_the_service_and_not_of_each_contact(self) -> None:
        first, second = message(number=1), message(number=2)
        self.process(*(message(number=n) for n in range(10, 14)))
        one, two = self.process(first), self.process(second)
        self.assertEqual(len(self.service.running), 5)
        self.service.finish()
        self.service.finish(5)
        self.successResultOf(one)
        self.successResultOf(two)

    def test_after_30_seconds_all_that_is_not_done_is_pending(self) -> None:
        sent = [message(number=n) for n in range(8)]
        done = self.process(*sent)
        self.service.finish()
        self.clock.advance(PROCESSING_LIMIT - 1)
        self.assertNoResult(done)
        self.clock.advance(1)
        self.successResultOf(done)
        self.assert_processed(sent[0])
        self.assert_pending(*sent[1:])
        self.assertGreaterEqual(self.service.cancelled, 5)

    def test_places_are_free_again_after_the_limit(self) -> None:
        self.process(*(message(number=n) for n in range(8)))
        self.clock.advance(PROCESSING_LIMIT)
        del self.service.running[:]
        sent = message(number=99)
        done = self.process(sent)
        self.service.finish()
        self.successResultOf(done)
        self.assert_processed(sent)

    def test_a_line_of_calls_that_end_at_once_does_not_nest(self) -> None:
        service = SlowService()
        self.manager.add("quick", service, max_parallelism=200)
        blockers = self.process(*(message("quick", number=n) for n in range(200)))
        sent = [message("quick", number=1000 + n) for n in range(1500)]
        done = self.process(*sent)

        def at_once(message: common.Message) -> Deferred[None]:
            ended: Deferred[None] = Deferred()
            ended.callback(None)
            return ended

        service.process = at_once  # type: ignore[method-assign]
        service.finish()
        self.successResultOf(done)
        self.assert_processed(*sent)
        service.finish(199)
        self.successResultOf(blockers)

    def test_cancelling_the_contact_cancels_its_calls(self) -> None:
        done = self.process(*(message(number=n) for n in range(8)))
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.service.cancelled, 5)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_late_outcome_does_not_touch_the_message(self) -> None:
        """The store may be writing it at that moment."""
        service = StubbornService()
        self.manager.add("stubborn", service)
        sent = message("stubborn")
        done = self.process(sent)
        self.clock.advance(PROCESSING_LIMIT)
        self.successResultOf(done)
        self.assert_pending(sent)
        service.finish()
        self.assert_pending(sent)


class StopTests(ManagerCase):
    def test_stop_waits_for_running_calls_and_then_stops_the_services(self) -> None:
        slow, instant = SlowService(), InstantService()
        self.manager.add("hello", slow)
        self.manager.add("other", instant)
        self.successResultOf(Deferred.fromCoroutine(self.manager.start()))
        sent = message()
        done = self.process(sent)
        stopped = Deferred.fromCoroutine(self.manager.stop())
        self.assertNoResult(stopped)
        slow.finish()
        self.successResultOf(done)
        self.successResultOf(stopped)
        self.assert_processed(sent)
        self.assertEqual(instant.events, ["start", "stop"])

    def test_stop_gives_up_calls_that_take_longer(self) -> None:
        self.manager.add("hello", SlowService())
        sent = message()
        done = self.process(sent)
        stopped = Deferred.fromCoroutine(self.manager.stop())
        self.clock.advance(STOP_GRACE)
        self.successResultOf(done)
        self.successResultOf(stopped)
        self.assert_pending(sent)

    def test_no_message_is_taken_afterwards(self) -> None:
        """A service that was stopped must not look like an unknown one."""
        self.manager.add("hello", InstantService())
        self.successResultOf(Deferred.fromCoroutine(self.manager.stop()))
        sent = message()
        self.failureResultOf(self.process(sent), NotReady)
        self.assert_pending(sent)


class InstallTests(ManagerCase):
    def install(self, **fields: Any) -> None:
        context = mock.Mock(service_name=fields["name"], reactor=self.clock)
        config = services.ServiceConfig(**fields)
        self.manager.install(config, [NoopFactory(), MessageSaverFactory()], lambda name: context)

    def test_an_installed_service_gets_its_messages(self) -> None:
        self.install(name="sink", factory="NOOP")
        sent = message("sink")
        self.successResultOf(self.process(sent))
        self.assert_processed(sent)

    def test_reserved_names_are_refused(self) -> None:
        for name in ("", "system", "client"):
            error = self.assertRaises(ConfigError, self.install, name=name, factory="NOOP")
            self.assertEqual(str(error), f"illegal service name [{name}]")

    def test_an_unknown_factory_is_refused(self) -> None:
        error = self.assertRaises(ConfigError, self.install, name="a", factory="SPELL")
        self.assertIn("unable to find factory [SPELL]; there are: ", str(error))
        self.assertIn("NOOP", str(error))

    def test_a_config_of_another_type_is_refused(self) -> None:
        config = services.ServiceConfig().config
        config.Pack(grpcservice.Config(target="x"))
        error = self.assertRaises(ConfigError, self.install, name="a", factory="MessageSaver", config=config)
        self.assertIn("google.protobuf.StringValue", str(error))
        config.Pack(StringValue(value="x"))
        config.value = b"\xff\xff"
        self.assertRaises(ConfigError, self.install, name="a", factory="MessageSaver", config=config)

    def test_two_plug_ins_of_one_name_are_refused(self) -> None:
        config = services.ServiceConfig(name="a", factory="NOOP")
        factories = [NoopFactory(), NoopFactory()]
        error = self.assertRaises(ConfigError, self.manager.install, config, factories, mock.Mock())
        self.assertIn("several plug-ins", str(error))

    def test_a_factory_that_fails_is_named_with_its_package(self) -> None:
        config = services.ServiceConfig(name="a", factory="NOOP")
        factory = NoopFactory()
        factory.make = mock.Mock(side_effect=ValueError("oops"))  # type: ignore[method-assign]
        error = self.assertRaises(ConfigError, self.manager.install, config, [factory], mock.Mock())
        self.assertIn("NoopFactory of fleetspeak.server.services.noop of the package fleetspeak-twisted", str(error))
        self.flushLoggedErrors(ValueError)
        factory.make = mock.Mock(return_value=object())  # type: ignore[method-assign]
        error = self.assertRaises(ConfigError, self.manager.install, config, [factory], mock.Mock())
        self.assertIn("does not keep IServerEndpoint", str(error))

    def test_a_service_that_cannot_start_is_named(self) -> None:
        service = InstantService()
        service.start = mock.Mock(side_effect=OSError("no"))  # type: ignore[method-assign]
        self.manager.add("first", InstantService())
        self.manager.add("broken", service)
        failure = self.failureResultOf(Deferred.fromCoroutine(self.manager.start()), ConfigError)
        self.assertIn('service "broken" cannot start', str(failure.value))
        self.flushLoggedErrors(OSError)
