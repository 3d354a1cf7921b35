"""Forwarding messages over gRPC: to a real receiver, and through every status code."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError, PermanentError, TemporaryError
from fleetspeak.interfaces import IServerService, IServerServiceFactory
from fleetspeak.pb import common, grpcservice
from fleetspeak.security.certificates import load_certificates
from fleetspeak.server.services.callchannel import CallChannel
from fleetspeak.server.services.grpcservice import DEADLINE, TEMPORARY, GrpcFactory, GrpcService
from fleetspeak.server.services.grpctls import Credentials
from fleetspeak.wire.grpccalls import STATUSES, Status, Target
from tests.server.services.doubles import message
from tests.server.services.targets import Authority, TargetCase


class FakeCall:
    """A call of the target that ends when the test says so."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.cancelled = False
        self.done: Deferred[Status] = Deferred(self._cancel)

    def _cancel(self, _: object) -> None:
        self.cancelled = True

    def end(self, code: str) -> None:
        self.done.callback(Status(code, "the details"))


class FakeChannel(CallChannel):
    """Makes them."""

    def __init__(self) -> None:
        self.calls: list[FakeCall] = []

    def call(self, message: bytes, seconds: float) -> Deferred[Status]:
        self.calls.append(FakeCall(seconds))
        return self.calls[-1].done


def with_fakes(clock: Clock) -> tuple[GrpcService, list[FakeCall]]:
    """A service, and the calls that it makes."""
    service, channel = GrpcService(Target("unused", 1), None, clock), FakeChannel()
    service._channel = channel
    return service, channel.calls


class RetryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.service, self.calls = with_fakes(self.clock)
        self.done = Deferred.fromCoroutine(self.service.process(message()))

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
        for code in STATUSES[1:]:
            clock = Clock()
            service, calls = with_fakes(clock)
            done = Deferred.fromCoroutine(service.process(message()))
            for pause in (1, 2, 4, 8, 0):
                if not done.called:
                    calls[-1].end(code)
                clock.advance(pause)
            self.failureResultOf(done, TemporaryError if code in TEMPORARY else PermanentError)


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

    async def test_a_large_message(self) -> None:
        """Of 2 MiB, as upstream takes them from clients; more than any window of HTTP/2."""
        sent = message()
        sent.data.value = bytes(2 * 1024 * 1024)
        await self.service.process(sent)
        self.assertEqual(self.receiver.seen, [sent])

    async def test_a_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as folder:  # its name must be short
            self.serve(address=f"unix:{folder}/socket")
            service = self.started(GrpcService(Target(path=f"{folder}/socket"), None, reactor))
            await service.process(message())
        self.assertEqual(len(self.receiver.seen), 1)

    async def test_no_thread_of_ours_waits(self) -> None:
        self.receiver.hold.clear()
        before = threading.active_count()
        work = [Deferred.fromCoroutine(self.service.process(message(number=n))) for n in range(50)]
        self.assertLessEqual(threading.active_count() - before, 20, "the receiver's")
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
        self.assertEqual(service._credentials, Credentials(load_certificates(authority.pem.decode())))

    def test_what_cannot_work_is_refused(self) -> None:
        with tempfile.NamedTemporaryFile() as empty:
            for fields, words in (
                ({}, "must name a target"),
                ({"target": "a:b"}, "should end in a port"),
                ({"target": "a:1"}, "GRPCService requires either insecure or cert_file to be set, got: "),
                ({"target": "a:1", "cert_file": "/no/such/file"}, "cannot read cert_file /no/such/file"),
                ({"target": "a:1", "cert_file": empty.name}, "no PEM certificate"),
            ):
                error = self.assertRaises(ConfigError, self.make, **fields)
                self.assertIn(words, str(error))
        self.assertRaises(ConfigError, GrpcFactory().make, None, mock.Mock(service_name="hello"))
