"""Forwarding messages over gRPC: to a real receiver, and through every status code."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceFactory
from fleetspeak.pb import common, grpcservice
from fleetspeak.server.services.grpcservice import DEADLINE, TEMPORARY, GrpcFactory, GrpcService
from fleetspeak.server.services.grpctls import Credentials
from tests.server.services.doubles import message
from tests.server.services.targets import Authority, TargetCase


class ReactorClock(Clock):
    """A clock whose only thread is the test's."""

    def callFromThread(self, function: Callable[..., None], *args: object) -> None:
        function(*args)


class FakeCall:
    """A gRPC call that ends when the test says so."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.cancelled = False
        self._code = grpc.StatusCode.UNKNOWN
        self._callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> None:
        self.cancelled = True

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "the details"

    def end(self, code: str) -> None:
        self._code = grpc.StatusCode[code]
        for callback in self._callbacks:
            callback(self)


class RetryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = ReactorClock()
        self.calls: list[FakeCall] = []
        self.service = GrpcService("unused:1", None, self.clock)
        self.service._process = self.call
        self.done = Deferred.fromCoroutine(self.service.process(message()))

    def call(self, request: common.Message, timeout: float) -> FakeCall:
        self.calls.append(FakeCall(timeout))
        return self.calls[-1]

    def test_success(self) -> None:
        self.calls[0].end("OK")
        self.successResultOf(self.done)

    def test_an_unreachable_target_is_tried_again_with_growing_pauses(self) -> None:
        for pause in (1, 2, 4, 8):
            self.calls[-1].end("UNAVAILABLE")
            count = len(self.calls)
            self.clock.advance(pause - 0.01)
            self.assertEqual(len(self.calls), count)
            self.clock.advance(0.01)
            self.assertEqual(len(self.calls), count + 1)
        self.assertEqual([call.timeout for call in self.calls], [DEADLINE - t for t in (0, 1, 3, 7, 15)])
        self.calls[-1].end("OK")
        self.successResultOf(self.done)

    def test_when_the_next_pause_does_not_fit_the_last_error_decides(self) -> None:
        for pause in (1, 2, 4, 8):
            self.calls[-1].end("UNAVAILABLE")
            self.clock.advance(pause)
        self.calls[-1].end("UNAVAILABLE")
        failure = self.failureResultOf(self.done, TemporaryError)
        self.assertEqual(str(failure.value), "UNAVAILABLE: the details")

    def test_an_exception_in_a_receiver_is_tried_again_and_then_permanent(self) -> None:
        for pause in (1, 2, 4, 8):
            self.calls[-1].end("UNKNOWN")
            self.clock.advance(pause)
        self.calls[-1].end("UNKNOWN")
        self.failureResultOf(self.done, PermanentError)

    def test_a_refusal_does_not_hold_a_slot(self) -> None:
        """server-core.md 5 [improve]: retry only retryable codes."""
        self.calls[0].end("INVALID_ARGUMENT")
        self.failureResultOf(self.done, PermanentError)
        self.assertEqual(len(self.calls), 1)

    def test_cancelling_cancels_the_call(self) -> None:
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertTrue(self.calls[0].cancelled)
        self.calls[0].end("CANCELLED")

    def test_cancelling_ends_a_pause(self) -> None:
        self.calls[0].end("UNAVAILABLE")
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_are_in_flight_at_a_time(self) -> None:
        work = [Deferred.fromCoroutine(self.service.process(message(number=n))) for n in range(500)]
        self.assertEqual(len(self.calls), 501)
        for call in self.calls:
            call.end("OK")
        for done in work:
            self.successResultOf(done)


class VerdictTests(SynchronousTestCase):
    def test_upstreams_list_of_temporary_codes(self) -> None:
        for code in grpc.StatusCode:
            if code is grpc.StatusCode.OK:
                continue
            clock = ReactorClock()
            service = GrpcService("unused:1", None, clock)
            calls: list[FakeCall] = []

            def begin(request: common.Message, timeout: float, calls: list[FakeCall] = calls) -> FakeCall:
                calls.append(FakeCall(timeout))
                return calls[-1]

            service._process = begin
            done = Deferred.fromCoroutine(service.process(message()))
            for pause in (1, 2, 4, 8, 0):
                calls[-1].end(code.name)
                clock.advance(pause)
            expected = TemporaryError if code.name in TEMPORARY else PermanentError
            self.failureResultOf(done, expected)


class LoopbackTests(TargetCase):
    """With a real receiver."""

    def setUp(self) -> None:
        super().setUp()
        _, port = self.serve()
        self.service = self.plain(port)

    async def test_the_complete_message_arrives(self) -> None:
        sent = message(priority=common.Message.HIGH, background=True, is_blocklisted_source=True)
        sent.validation_info.tags["a"] = "b"
        sent.annotations.entries.add(key="k", value="v")
        await self.service.process(sent)
        self.assertEqual(self.receiver.seen, [sent])

    async def test_no_thread_of_ours_waits(self) -> None:
        self.receiver.hold.clear()
        before = threading.active_count()
        work = [Deferred.fromCoroutine(self.service.process(message(number=n))) for n in range(50)]
        self.assertLessEqual(threading.active_count() - before, 25, "grpc's own, and the receiver's")
        self.receiver.hold.set()
        for done in work:
            await done
        self.assertEqual(len(self.receiver.seen), 50)

    async def test_after_stop_the_connection_is_unavailable(self) -> None:
        self.service.stop()
        with self.assertRaisesRegex(TemporaryError, "connection unavailable"):
            await self.service.process(message())


class FactoryTests(SynchronousTestCase):
    def make(self, **fields: Any) -> GrpcService:
        return GrpcFactory().make(grpcservice.Config(**fields), mock.Mock(service_name="hello"))

    def test_interfaces(self) -> None:
        verifyObject(IServerServiceFactory, GrpcFactory())
        verifyObject(IServerService, self.make(target="localhost:1", insecure=True))

    def test_insecure_wins_over_cert_file(self) -> None:
        self.assertIsNone(self.make(target="a:1", insecure=True, cert_file="/no/such")._credentials)

    def test_a_cert_file_is_read_at_once(self) -> None:
        authority = Authority(Path(self.mktemp()), "Ours")
        service = self.make(target="a:1", cert_file=str(authority.path))
        self.assertEqual(service._credentials, Credentials(authority.pem))

    def test_what_cannot_work_is_refused(self) -> None:
        with tempfile.NamedTemporaryFile() as empty:
            for fields, words in (
                ({}, "must name a target"),
                ({"target": "a:1"}, "GRPCService requires either insecure or cert_file to be set, got: "),
                ({"target": "a:1", "cert_file": "/no/such/file"}, "cannot read cert_file /no/such/file"),
                ({"target": "a:1", "cert_file": empty.name}, "no PEM certificate"),
            ):
                error = self.assertRaises(ConfigError, self.make, **fields)
                self.assertIn(words, str(error))
        self.assertRaises(ConfigError, GrpcFactory().make, None, mock.Mock(service_name="hello"))
