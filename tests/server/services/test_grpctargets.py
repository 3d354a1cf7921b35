"""GRPC services with targets that are slow, gone, restarting, lying, or refuse (server-core.md 5)."""

from __future__ import annotations

import grpc
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from fleetspeak.errors import PermanentError, TemporaryError
from fleetspeak.pb import common
from fleetspeak.server.services.grpcservice import GrpcService
from fleetspeak.server.services.manager import ServiceManager
from fleetspeak.wire.grpccalls import Target
from tests.server.services.doubles import message
from tests.server.services.targets import TargetCase, answering


class SlowTests(TargetCase):
    async def test_many_calls_are_in_flight_and_no_more_than_the_service_may_have(self) -> None:
        """Bounded by max_parallelism, which the operator sets to what the target bears."""
        _, port = self.serve()
        manager = ServiceManager(reactor)
        manager.add("hello", self.plain(port), max_parallelism=8)
        self.receiver.hold.clear()
        sent = [message(number=n) for n in range(60)]
        done = Deferred.fromCoroutine(manager.process(sent, None, True))
        while self.receiver.most < 8:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        self.receiver.hold.set()
        await done
        self.assertEqual(self.receiver.most, 8)
        self.assertEqual(len(self.receiver.seen), 60)
        self.assertTrue(all(one.HasField("result") and not one.result.failed for one in sent))

    async def test_one_that_is_too_slow_makes_it_temporary(self) -> None:
        self.hurry(0.3)
        _, port = self.serve()
        self.receiver.hold.clear()
        self.addCleanup(self.receiver.hold.set)
        with self.assertRaisesRegex(TemporaryError, "DEADLINE_EXCEEDED"):
            await self.plain(port).process(message())

    async def test_one_that_accepts_and_says_nothing(self) -> None:
        self.hurry(0.5)
        with self.assertRaisesRegex(TemporaryError, "DEADLINE_EXCEEDED|UNAVAILABLE"):
            await self.plain(self.listen()).process(message())


class SizeTests(TargetCase):
    async def test_ours_have_no_limit_and_that_of_the_receiver_fails_the_message(self) -> None:
        """4 MiB by default."""
        self.hurry(10, 11)
        large = message()
        large.data.value = bytes(5 << 20)
        _, port = self.serve(options=(("grpc.max_receive_message_length", 8 << 20),))
        await self.plain(port).process(large)
        self.assertEqual(self.receiver.seen, [large])
        _, port = self.serve()
        with self.assertRaisesRegex(PermanentError, "RESOURCE_EXHAUSTED"):
            await self.plain(port).process(large)


class GoneTests(TargetCase):
    async def test_nothing_listens(self) -> None:
        self.hurry(1)
        server, port = self.serve()
        server.stop(None).wait()
        with self.assertRaisesRegex(TemporaryError, "UNAVAILABLE"):
            await self.plain(port).process(message())

    async def test_a_name_that_nobody_knows(self) -> None:
        self.hurry(1)
        service = self.started(GrpcService(Target("receiver.invalid", 1), None, reactor))
        with self.assertRaisesRegex(TemporaryError, "UNAVAILABLE|DEADLINE_EXCEEDED"):
            await service.process(message())

    async def test_one_that_restarts_gets_the_message_within_the_same_call(self) -> None:
        self.hurry(20)
        server, port = self.serve()
        service = self.plain(port)
        await service.process(message(number=1))
        server.stop(None).wait()
        done = Deferred.fromCoroutine(service.process(message(number=2)))
        await deferLater(reactor, 0.1)  # type: ignore[arg-type]
        self.assertFalse(done.called)
        self.serve(address=f"127.0.0.1:{port}")
        await done
        self.assertEqual([one.message_id[-1] for one in self.receiver.seen], [1, 2])

    async def test_one_that_dies_during_a_call_gets_the_message_again(self) -> None:
        """At least once: whether it had been processed, nobody knows."""
        self.hurry(20)
        server, port = self.serve()
        service = self.plain(port)
        self.receiver.hold.clear()
        done = Deferred.fromCoroutine(service.process(message()))
        while not self.receiver.most:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        stopped = server.stop(0)
        assert service._channel is not None
        while service._channel._connection is not None:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        self.receiver.hold.set()
        await deferToThread(stopped.wait)
        self.serve(address=f"127.0.0.1:{port}")
        await done
        while len(self.receiver.seen) < 2:  # the first call, too, ends in its thread
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]


class LyingTests(TargetCase):
    async def process_with(self, reply: bytes) -> None:
        _, port = self.serve(handlers=answering(lambda request, context: reply))
        await self.plain(port).process(message())

    async def test_a_reply_that_is_no_message_is_no_success(self) -> None:
        self.hurry(10, 11)
        with self.assertRaisesRegex(PermanentError, "INTERNAL"):
            await self.process_with(b"\xff\xff\xff")

    async def test_fields_that_we_do_not_know_do_not_matter(self) -> None:
        await self.process_with(common.Message(message_type="x").SerializeToString())

    async def test_a_reply_of_many_mib_takes_no_memory(self) -> None:
        """The limit of a channel is 4 MiB, where nothing is the answer."""
        self.hurry(10, 11)
        with self.assertRaisesRegex(PermanentError, "RESOURCE_EXHAUSTED"):
            await self.process_with(bytes(8 << 20))

    async def test_one_that_serves_something_else(self) -> None:
        _, port = self.serve(handlers=())
        with self.assertRaisesRegex(PermanentError, "UNIMPLEMENTED"):
            await self.plain(port).process(message())

    async def test_one_that_does_not_speak_grpc(self) -> None:
        self.hurry(1)

        port = self.listen(b"220 mail.example ESMTP\r\n" * 100)
        with self.assertRaisesRegex(TemporaryError, "UNAVAILABLE|DEADLINE_EXCEEDED"):
            await self.plain(port).process(message())


class RefusingTests(TargetCase):
    def refuse_with(self, code: grpc.StatusCode, times: int = 1000) -> GrpcService:
        def answer(request: common.Message, context: grpc.ServicerContext) -> None:
            if len(self.receiver.seen) <= times:
                context.abort(code, "not like this")

        self.receiver.answer = answer
        _, port = self.serve()
        return self.plain(port)

    async def test_a_refusal_is_asked_for_once(self) -> None:
        """Upstream repeats it for 30 s."""
        for code in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"):
            del self.receiver.seen[:]
            service = self.refuse_with(grpc.StatusCode[code])
            with self.assertRaisesRegex(PermanentError, f"{code}: not like this"):
                await service.process(message())
            self.assertEqual(len(self.receiver.seen), 1, code)

    async def test_no_right_is_a_matter_of_time_but_not_of_seconds(self) -> None:
        for code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            del self.receiver.seen[:]
            with self.assertRaisesRegex(TemporaryError, code):
                await self.refuse_with(grpc.StatusCode[code]).process(message())
            self.assertEqual(len(self.receiver.seen), 1, code)

    async def test_trouble_of_a_moment_is_asked_again_for(self) -> None:
        self.hurry(20)
        for code in ("UNAVAILABLE", "ABORTED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN"):
            del self.receiver.seen[:]
            await self.refuse_with(grpc.StatusCode[code], times=2).process(message())
            self.assertEqual(len(self.receiver.seen), 3, code)
