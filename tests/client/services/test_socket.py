"""The Socket service with real sockets (client-tests.md L; I 83 to 88 where a socket is at hand)."""

from __future__ import annotations

import os
import socket as sockets
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import capturedLogs

from fleetspeak.client.services import socket
from fleetspeak.client.services.socket import SocketService
from fleetspeak.client.sockets.connection import Limits
from fleetspeak.client.sockets.listening import PeerCredentials
from fleetspeak.errors import ConfigError, TooLarge
from fleetspeak.pb import common, monitoring
from fleetspeak.wire import channelframes
from tests import vectors
from tests.client.process.children import message, until
from tests.client.sockets.case import SocketCase
from tests.client.sockets.peer import MAGIC, Peer, connect, from_process

RECORDED = vectors.load("channel_frames")["socket_service"]


class Talking(SocketCase):
    async def test_item_112_the_same_process_is_served_through_restarts_of_the_client(self) -> None:
        for _ in range(3):
            service = self.make()
            service.start()
            peer = await self.ready_peer()
            for kind in ("RequestTypeA", "RequestTypeB"):
                await service.process(message(kind))
            await until(lambda peer=peer: len(peer.messages) == 2)
            for number, got in enumerate(peer.messages):
                got.message_type += "Response"
                got.source_message_id = b"%016d" % number
                peer.send(got)
            await until(lambda: len(self.context.sent) == 2)
            expected = [message(kind) for kind in ("RequestTypeAResponse", "RequestTypeBResponse")]
            for number, sent in enumerate(expected):
                sent.source_message_id = b"%016d" % number
            self.assertEqual(expected, self.context.sent)
            self.assertEqual([], self.counter.closed)
            await service.stop()
            self.assertEqual([None], self.counter.closed)
            await until(lambda peer=peer: peer.ended)
            self.context.sent.clear()
            self.context.on_acks.clear()
            self.counter.closed.clear()

    async def test_item_113_a_process_that_waits_for_each_ack_goes_on(self) -> None:
        self.service()
        peer = await self.ready_peer()
        for number in range(5):
            peer.send(from_process("Request", number))
            await until(lambda number=number: len(self.context.sent) == number + 1)
            self.assertEqual(number, len(peer.acked))
            self.context.confirm()
            await until(lambda number=number: len(peer.acked) == number + 1)
        self.assertEqual([b"%016d" % number for number in range(5)], peer.acked)

    async def test_item_114_a_process_that_reconnects_after_each_acked_message(self) -> None:
        self.service()
        for number in range(5):
            peer = await self.peer()
            peer.send(from_process("Request", number))
            await until(lambda number=number: len(self.context.sent) == number + 1)
            self.context.confirm()
            await until(lambda peer=peer: peer.acked)
            await peer.close()
            await until(lambda number=number: len(self.counter.closed) == number + 1)
        self.assertEqual(["socket closed by unknown cause"] * 5, [str(error) for error in self.counter.closed])

    async def test_startup_data_is_consumed_and_heartbeats_are_not_special(self) -> None:
        self.service()
        peer = await self.peer()
        heartbeat = common.Message(message_type="Heartbeat", destination=common.Address(service_name="system"))
        peer.send(heartbeat)
        await until(lambda: self.context.sent)
        self.assertEqual([heartbeat], self.context.sent)

    async def test_one_at_a_time_and_the_others_wait(self) -> None:
        service = self.service()
        first = await self.ready_peer()
        second, third = await self.peer(), await self.peer()
        second.send(from_process("from the second"))
        await service.process(message("to the first"))
        await until(lambda: first.messages)
        self.assertEqual((b"", b"", []), (second.raw, third.raw, self.context.sent))
        await first.close()
        await until(lambda: self.context.sent)
        await service.process(message("to the second"))
        await until(lambda: second.messages)
        self.assertEqual(b"", third.raw)
        await second.close()
        await until(lambda: third.raw)

    async def test_messages_wait_for_a_process(self) -> None:
        service = self.service()
        waiting = self.process(service, message("early"))
        self.assertNoResult(waiting)
        silent = await connect(self.path)
        await until(lambda: silent.raw == MAGIC)
        self.assertNoResult(waiting)
        self.assertEqual(MAGIC, silent.raw)  # before the other magic number nothing else is written
        silent.write(MAGIC)
        await waiting
        await until(lambda: silent.types() == ["early"])
        await silent.close()

    async def test_a_message_that_no_channel_carries_is_refused(self) -> None:
        service = self.service()
        big = message("Big")
        big.data.value = bytes(channelframes.MAX_MESSAGE)
        await self.assertFailure(self.process(service, big), TooLarge)
        peer = await self.ready_peer()
        big.data.value = bytes(channelframes.MAX_MESSAGE - 100)
        await service.process(big)
        await until(lambda: peer.types() == ["Big"])


class Monitoring(SocketCase):
    def usage(self) -> list[monitoring.ResourceUsageData]:
        data = []
        for sent in self.context.sent:
            if sent.message_type == "ResourceUsage":
                data.append(monitoring.ResourceUsageData())
                assert sent.data.Unpack(data[-1])
        return data

    async def started(self, pid: int) -> tuple[SocketService, Peer]:
        service = self.make(resource_monitoring_sample_size=2, resource_monitoring_sample_period_seconds=1)
        service.start()
        self.addCleanup(service.stop)
        peer = await connect(self.path)
        peer.begin(pid)
        return service, peer

    async def test_item_116_startup_data_starts_monitoring_and_the_end_ends_it(self) -> None:
        service, peer = await self.started(os.getpid())
        await until(self.usage, 10)
        (data,) = self.usage()
        self.assertEqual(("TestService", os.getpid(), "0.5"), (data.scope, data.pid, data.version))
        self.assertFalse(data.HasField("process_start_time"))
        self.assertGreater(data.resource_usage.mean_resident_memory, 0)
        sent = self.context.sent[0]
        self.assertEqual((common.Message.LOW, True), (sent.priority, sent.background))
        await peer.close()
        await service.stop()

    async def test_a_process_cannot_have_another_one_watched(self) -> None:
        self.patch(self.context, "service_name", "Named")
        with capturedLogs() as logs:
            _, peer = await self.started(1)
            await until(self.usage, 10)
        self.assertEqual(("Named", os.getpid()), (self.usage()[0].scope, self.usage()[0].pid))
        self.assertEqual([1], [event["reported"] for event in logs if "reported" in event])
        await peer.close()

    def test_it_can_be_turned_off_and_a_bad_size_is_refused(self) -> None:
        self.assertIsNone(self.make(disable_resource_monitoring=True)._rules)
        self.assertRaises(ConfigError, self.make, resource_monitoring_sample_size=1)


class Acks(SocketCase):
    async def test_item_88_the_local_ack_of_the_vector(self) -> None:
        """Comes about 100 ms after the server's confirmation, byte for byte."""
        self.service()
        peer = await connect(self.path)
        self.addCleanup(peer.close)
        for step in RECORDED[:2]:
            peer.write(bytes.fromhex(step[1]))
        await until(lambda: self.context.sent and peer.raw)
        self.assertEqual("FromSock", self.context.sent[0].message_type)
        self.assertEqual(bytes.fromhex(RECORDED[2][1]), peer.raw)
        confirmed = time.monotonic()
        self.context.confirm()
        await until(lambda: peer.acked)
        self.assertTrue(0.08 < time.monotonic() - confirmed < 1.0)
        self.assertEqual(bytes.fromhex(RECORDED[2][1] + RECORDED[3][1]), peer.raw)

    async def test_item_88_acks_of_one_period_travel_together(self) -> None:
        self.service()
        peer = await self.ready_peer()
        peer.send(*(from_process("Request", number) for number in range(50)))
        await until(lambda: len(self.context.sent) == 50)
        self.context.confirm()
        await until(lambda: len(peer.acked) == 50)
        self.assertEqual(1, len(peer.local_acks))

    async def test_with_a_spool_acceptance_is_enough(self) -> None:
        self.context.spooled = True
        self.service()
        peer = await self.ready_peer()
        self.context.hold = True
        peer.send(from_process("Request"))
        await until(lambda: self.context._held)
        self.context.accept()
        await until(lambda: peer.acked == [b"%016d" % 1])
        self.assertEqual([None], self.context.on_acks)

    async def test_what_can_never_be_sent_is_logged_and_acked(self) -> None:
        accept = self.context.send

        def refuse_some(sent: common.Message, on_ack: Any = None) -> Deferred[None]:
            if not sent.destination.service_name:
                return fail(ValueError("destination must have ServiceName"))
            return accept(sent, on_ack)

        self.patch(self.context, "send", refuse_some)
        self.service()
        peer = await self.ready_peer()
        with capturedLogs() as logs:
            peer.send(common.Message(source_message_id=b"x" * 16), from_process("good"))
            await until(lambda: peer.acked and self.context.sent)
        self.assertEqual([b"x" * 16], peer.acked)
        self.assertIn("destination must have ServiceName", str(logs))

    async def test_what_is_on_its_way_is_not_sent_again_and_the_new_connection_hears_of_it(self) -> None:
        self.service()
        first = await self.ready_peer()
        first.send(from_process("Request"))
        await until(lambda: self.context.sent)
        await first.close()
        second = await self.ready_peer()
        second.send(from_process("Request"), from_process("Next", 2))
        await until(lambda: len(self.context.sent) == 2)
        self.assertEqual(["Request", "Next"], [sent.message_type for sent in self.context.sent])
        self.context.confirm()
        await until(lambda: len(second.acked) == 2)

    async def test_item_119_acks_of_a_dead_connection_block_nobody(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        messages = [from_process("Request", number) for number in range(160)]
        for number, sent in enumerate(messages):
            sent.priority = common.Message.HIGH if number % 2 else common.Message.MEDIUM
        peer.send(*messages)
        await until(lambda: len(self.context.sent) == 160)
        await peer.close()
        await until(lambda: self.counter.closed)
        self.context.confirm()  # runs through
        after = await self.ready_peer()
        after.send(from_process("After", 999))
        await until(lambda: len(self.context.sent) == 161)
        self.context.confirm()
        await until(lambda: after.acked == [b"%016d" % 999])
        await service.stop()

    async def test_a_process_that_reads_no_acks_is_not_read_for_ever(self) -> None:
        """The ids that wait for it are bounded, whatever it sends."""
        self.context.spooled = True
        service = self.service(Limits(linger=0.3, ack_period=0.001))
        peer = await self.ready_peer()
        assert peer.transport is not None
        peer.transport.pauseProducing()  # type: ignore[attr-defined]
        batch = b"".join(channelframes.encode(from_process("x", number).SerializeToString()) for number in range(2000))
        written = 0
        for _ in range(10):
            peer.write(batch)
            written += 2000
        await until(lambda: service._connection is not None and service._connection._held_up)
        self.assertLess(len(self.context.sent), written)
        peer.transport.resumeProducing()  # type: ignore[attr-defined]
        await until(lambda: len(self.context.sent) == written)

    async def test_stop_acknowledges_what_has_arrived(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        peer.send(from_process("Request"))
        await until(lambda: self.context.sent)
        self.context.confirm()
        await service.stop()
        await until(lambda: peer.ended_in_order)
        self.assertEqual([b"%016d" % 1], peer.acked)


class Misbehaving(SocketCase):
    async def test_item_84_a_dead_peer_loses_its_place(self) -> None:
        self.service(Limits(read_limit=0.2, linger=0.2))
        dead, waiting = await connect(self.path), await self.peer()
        await until(lambda: dead.ended)
        self.assertIn("timed out", str(self.counter.closed[0]))
        await until(lambda: waiting.raw)

    async def test_item_85_garbage_is_refused_and_the_next_one_served(self) -> None:
        service = self.service()
        waiting = self.process(service, message("Request"))
        garbage = await connect(self.path)
        garbage.write(b"this is not the protocol")
        await until(lambda: garbage.ended)
        self.assertIn("unexpected magic number", str(self.counter.closed[0]))
        self.assertEqual((MAGIC, []), (garbage.raw, self.context.sent))
        good = await self.ready_peer()
        await waiting
        await until(lambda: good.types() == ["Request"])

    async def test_messages_in_front_of_garbage_are_taken(self) -> None:
        self.service()
        peer = await self.ready_peer()
        peer.write(channelframes.encode(from_process("good").SerializeToString()) + b"\xff" * 8)
        await until(lambda: self.counter.closed)
        self.assertEqual(["good"], [sent.message_type for sent in self.context.sent])

    async def test_a_body_that_is_no_message(self) -> None:
        self.service()
        peer = await self.ready_peer()
        peer.write(channelframes.encode(b"\xff\xff"))
        await until(lambda: self.counter.closed)
        self.assertIn("error parsing received message", str(self.counter.closed[0]))

    async def test_a_full_outbox_holds_up_the_process_and_its_end_is_noticed_all_the_same(self) -> None:
        self.service()
        peer = await self.ready_peer()
        self.context.hold = True
        big = from_process("Big")
        big.data.value = bytes(64 * 1024)
        for number in range(100):
            big.source_message_id = b"%016d" % number
            peer.send(big)
        await until(lambda: self.context._held)
        peer.transport.abortConnection()  # type: ignore[union-attr]
        waiting = await self.peer()
        await until(lambda: waiting.raw, 10)
        self.context.accept()
        self.assertLess(len(self.context.sent), 5)

    async def test_what_it_sent_last_is_still_accepted_after_its_end(self) -> None:
        self.service()
        self.context.hold = True
        peer = await self.ready_peer()
        peer.send(*(from_process("Last", number) for number in range(3)))
        await until(lambda: self.context._held)
        await peer.close()
        self.context.accept()
        await until(lambda: len(self.context.sent) == 3)

    async def test_another_users_process_is_turned_away(self) -> None:
        other = PeerCredentials(pid=1, uid=os.geteuid() + 1)
        self.assertFalse(other.trusted)
        self.assertTrue(PeerCredentials(pid=1, uid=0).trusted)
        answers = [other, None]
        self.patch(socket, "credentials_of", lambda _: answers.pop(0))
        self.service()
        stranger = await self.peer()
        await until(lambda: stranger.ended)
        self.assertEqual((b"", []), (stranger.raw, self.counter.closed))
        await self.ready_peer()


class Stopping(SocketCase):
    def test_item_117_without_any_connection(self) -> None:
        service = self.service()
        self.assertIsNone(service.stop())
        self.assertFalse(Path(self.path).exists())

    async def test_item_132_a_queued_message_keeps_nobody_from_stopping(self) -> None:
        service = self.service()
        waiting = self.process(service, message("Request"))
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        self.assertIsNone(service.stop())
        again = self.service()
        peer = await self.ready_peer()
        await again.process(message("Request"))
        await until(lambda: peer.types() == ["Request"])

    async def test_with_a_process_that_reads_nothing(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        peer.transport.pauseProducing()  # type: ignore[union-attr, attr-defined]
        big = message("Big")
        big.data.value = bytes(1024 * 1024)
        waiting = self.process(service, big)
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        started = time.monotonic()
        await service.stop()
        self.assertLess(time.monotonic() - started, 2)

    async def test_before_the_process_has_said_anything(self) -> None:
        service = self.service()
        silent = await connect(self.path)
        await until(lambda: silent.raw)
        await service.stop()
        await until(lambda: silent.ended)
        self.assertEqual([None], self.counter.closed)

    async def test_while_the_outbox_is_full(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        self.context.hold = True
        peer.send(from_process("Request"))
        await until(lambda: self.context._held)
        await service.stop()
        self.assertEqual([], self.context._held)

    def test_the_socket_of_another_program_is_left_alone(self) -> None:
        service = self.service()
        os.unlink(self.path)
        with sockets.socket(sockets.AF_UNIX) as other:
            other.bind(self.path)
            service.stop()
            self.assertTrue(Path(self.path).exists())
