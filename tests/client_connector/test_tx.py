"""The Twisted connector: as a daemon with real processes, and over a socket with our service at the other end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fleetspeak.client_connector import relentless, socketfile, tx
from fleetspeak.client_connector.tx import ConnectionClosed, NotRunning, UnsafeSocket, connect
from fleetspeak.client_connector.tx import socket as tx_socket
from fleetspeak.client_connector.tx.daemon import DaemonConnection
from fleetspeak.pb import common
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelframes import MAGIC
from fleetspeak.wire.channelreader import ChannelReader
from tests.client.process.children import message, until
from tests.client_connector.socketcase import ServiceCase, to_server
from tests.client_connector.variants import TX_HEAD, TX_TAIL, DaemonVariants


class Daemons(DaemonVariants, TestCase):
    head = TX_HEAD
    tail = TX_TAIL


class Pipes(TestCase):
    """A daemon's connection over pipes of the test: what no well-behaved client does, and cancellation."""

    timeout = 20

    def setUp(self) -> None:
        self.to_process, self.from_process = os.pipe(), os.pipe()
        self.ack_pipe = os.pipe()
        self.ours = [self.to_process[1], self.from_process[0], self.ack_pipe[1]]
        self.addCleanup(lambda: [os.close(descriptor) for descriptor in self.ours])

    async def connection(self, *, acks: bool = False) -> DaemonConnection:
        if not acks:
            os.close(self.ack_pipe[0])
        os.write(self.to_process[1], MAGIC)
        ack = self.ack_pipe[0] if acks else None
        connection = DaemonConnection(reactor, self.to_process[0], self.from_process[1], ack, "0.5")
        self.addCleanup(lambda: deferLater(reactor, 0.01))  # type: ignore[arg-type]
        self.addCleanup(connection.close)
        await connection.begin()
        return connection

    def give(self, *types: str) -> None:
        for each in types:
            frame = channelframes.encode(common.Message(message_type=each).SerializeToString())
            os.write(self.to_process[1], frame)

    async def test_item_83_an_echo_and_an_orderly_end(self) -> None:
        connection = await self.connection()

        async def echo() -> None:
            async for got in connection:
                got.message_type += "Reply"
                await connection.send(got)
            await connection.close()

        echoing = Deferred.fromCoroutine(echo())
        reader = ChannelReader(0.0)
        os.set_blocking(self.from_process[0], False)
        replies: list[str] = []
        ended = False

        def look() -> bool:
            nonlocal ended
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.from_process[0], 1 << 16)
                ended = not data
                replies.extend(common.Message.FromString(body).message_type for body in reader.feed(data, 0.0))
            return ended

        for number in (1, 2, 3):
            self.give("abc" * number)
        await until(lambda: look() or len(replies) == 4)
        self.assertEqual(["StartupData", "abcReply", "abcabcReply", "abcabcabcReply"], replies)
        os.close(self.ours.pop(0))
        await echoing
        await until(look)
        reader.finish()

    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        connection = await self.connection()
        frame = channelframes.encode(common.Message(message_type="cut").SerializeToString())
        waiting = connection.receive()
        os.write(self.to_process[1], frame[:6])
        await until(lambda: connection._machine.needed == 3)
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        os.write(self.to_process[1], frame[6:])
        self.give("next")
        self.assertEqual("cut", (await connection.receive()).message_type)
        self.assertEqual("next", (await connection.receive()).message_type)

    async def test_two_receive_at_a_time(self) -> None:
        connection = await self.connection()
        waiting = [connection.receive(), connection.receive()]
        self.give("one", "two")
        got = await gatherResults(waiting)
        self.assertEqual(["one", "two"], [each.message_type for each in got])

    async def test_a_cancelled_send_leaves_whole_messages(self) -> None:
        connection = await self.connection()
        big = to_server("big")
        big.data.value = bytes(200_000)
        first, second, third = (connection.send(each) for each in (big, to_server("taken back"), to_server("last")))
        for each in (first, second):
            each.cancel()
            await self.assertFailure(each, CancelledError)
        decoder = channelframes.Decoder()
        types: list[str] = []
        os.set_blocking(self.from_process[0], False)

        def last_came() -> bool:
            try:
                data = os.read(self.from_process[0], 1 << 16)
            except BlockingIOError:
                return False
            types.extend(common.Message.FromString(body).message_type for body in decoder.feed(data))
            return "last" in types

        await until(last_came)
        self.assertEqual(["StartupData", "big", "last"], types)
        await third

    async def test_acks_may_skip_numbers(self) -> None:
        connection = await self.connection(acks=True)
        sending = [connection.send(to_server(str(number))) for number in range(3)]
        os.write(self.ack_pipe[1], struct.pack("<Q", 2))
        await gatherResults(sending[:2])
        self.assertNoResult(sending[2])
        os.write(self.ack_pipe[1], struct.pack("<Q", 3))
        await sending[2]

    async def test_a_client_that_dies_before_it_has_the_message(self) -> None:
        connection = await self.connection(acks=True)
        sending = connection.send(to_server("lost?"))
        self.give("left")
        os.close(self.ours.pop())
        await self.assertFailure(sending, ConnectionClosed)
        self.assertEqual("left", (await connection.receive()).message_type)

    async def test_the_end(self) -> None:
        connection = await self.connection()
        self.give("one", "two")
        os.close(self.ours.pop(0))
        self.assertEqual(["one", "two"], [each.message_type async for each in connection])
        await self.assertFailure(connection.receive(), ConnectionClosed)
        await self.assertFailure(connection.send(to_server("lost")), ConnectionClosed)

    async def test_garbage(self) -> None:
        connection = await self.connection()
        os.write(self.to_process[1], b"\xff" * 4)
        await self.assertFailure(connection.receive(), tx.ProtocolError)

    async def test_what_cannot_be_sent_is_refused(self) -> None:
        connection = await self.connection()
        to_system = common.Message(destination=common.Address(service_name="system"))
        await self.assertFailure(connection.send(to_system), ValueError)

    async def test_no_daemon(self) -> None:
        self.patch(os, "environ", {})
        await self.assertFailure(connect(reactor), ValueError)


class Sockets(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        for module in (tx_socket, socketfile):
            self.patch(module, "FIRST_DELAY", 0.05)

    async def connected(self, **options: Any) -> tx.Connection:
        connection = await connect(reactor, self.path, version="0.5", **options)
        self.addCleanup(connection.close)
        return connection

    async def test_item_112_one_process_and_three_clients_one_after_the_other(self) -> None:
        self.context.spooled = True
        service = self.serve()

        async def program(connection: tx.Connection) -> None:
            async for request in connection:
                await connection.send(to_server(request.message_type + "Response"))

        connection = await self.connected()
        running = Deferred.fromCoroutine(program(connection))
        for _ in range(3):
            for kind in ("RequestTypeA", "RequestTypeB"):
                await service.process(message(kind))
            await self.sent("RequestTypeAResponse", "RequestTypeBResponse")
            await service.stop()
            service = self.serve()
        await connection.close()
        await running

    async def test_items_113_114_send_is_done_when_acknowledged_and_connections_may_be_many(self) -> None:
        self.serve()
        for number in range(5):
            connection = await self.connected()
            sending = connection.send(to_server(str(number)))
            await until(lambda number=number: len(self.context.sent) == number + 1)  # type: ignore[misc]
            self.assertNoResult(sending)
            self.context.confirm()
            self.assertEqual(to_server(str(number)).ByteSize(), await sending)
            await connection.close()

    async def test_many_at_a_time_and_flush(self) -> None:
        self.context.spooled = True
        self.serve()
        connection = await self.connected()
        await connection.heartbeat()
        await gatherResults([connection.send(to_server(f"a{number}")) for number in range(200)])
        for number in range(200):
            await connection.send(to_server(f"b{number}"), wait=False)
        await connection.flush()
        self.assertEqual(400, len(set(self.types())))

    async def test_what_was_not_acknowledged_is_sent_again(self) -> None:
        service = self.serve()
        connection = await self.connected()
        sending = connection.send(to_server("A"))
        await until(lambda: self.context.sent)
        await service.stop()
        first = self.context.sent.pop()
        self.serve()
        await until(lambda: self.context.sent)
        self.assertEqual([first], self.context.sent)
        self.context.confirm()
        await sending

    async def test_an_ack_behind_many_messages_is_found_and_messages_stay_with_the_client(self) -> None:
        service = self.serve()
        connection = await self.connected()
        sending = connection.send(to_server("A"))
        await until(lambda: self.context.sent)
        big = message("Big")
        big.data.value = bytes(40_000)
        for _ in range(20):
            await service.process(big)
        self.context.confirm()
        await sending
        for _ in range(20):
            await connection.receive()

        async def process_more() -> None:
            for _ in range(20):
                await service.process(big)

        processing = Deferred.fromCoroutine(process_more())
        assert isinstance(connection, tx_socket.SocketConnection)
        await until(lambda: not connection.wants_data)
        self.assertLess(len(connection.machine._inbox), 7)
        for _ in range(20):
            await connection.receive()
        await processing

    async def test_an_ack_behind_too_many_messages_is_told_of(self) -> None:
        self.patch(relentless, "MAX_RECEIVED_BYTES", 100_000)
        service = self.serve()
        connection = await self.connected()
        sending = connection.send(to_server("A"))
        await until(lambda: self.context.sent)
        for _ in range(90):
            await service.process(message("x" * 1000))
        await self.assertFailure(sending, BufferError)
        self.context.confirm()
        for _ in range(90):
            await connection.receive()
        await connection.flush()

    async def test_a_full_table_blocks_and_cancelling_takes_the_message_back(self) -> None:
        self.patch(relentless, "MAX_PENDING", 2)
        self.serve()
        connection = await self.connected()
        for _ in range(2):
            await connection.send(to_server("kept"), wait=False)
        refused = connection.send(to_server("refused"))
        self.assertNoResult(refused)
        refused.cancel()
        await self.assertFailure(refused, CancelledError)
        receiving = connection.receive()
        receiving.cancel()
        await self.assertFailure(receiving, CancelledError)
        last = connection.send(to_server("last"))
        await until(lambda: len(self.context.sent) == 2)
        self.context.confirm()
        await until(lambda: self.types() == ["kept", "kept", "last"])
        self.context.confirm()
        await last

    async def test_close_wakes_whoever_waits(self) -> None:
        self.serve()
        connection = await self.connected()
        waiting: list[Deferred[Any]] = [connection.send(to_server("A")), connection.receive(), connection.flush()]
        await connection.close()
        for each in waiting:
            await self.assertFailure(each, ConnectionClosed)
        await self.assertFailure(connection.send(to_server("B")), ConnectionClosed)
        await self.assertFailure(connection.heartbeat(), ConnectionClosed)
        await connection.close()

    async def test_no_client_and_an_unsafe_socket(self) -> None:
        await self.assertFailure(connect(reactor, self.path, timeout=0), NotRunning)
        os.mkdir(os.path.dirname(self.path), 0o700)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(self.path)
            await self.assertFailure(connect(reactor, self.path, timeout=0), UnsafeSocket)
            os.chmod(self.path, 0o600)
            await self.assertFailure(connect(reactor, self.path, timeout=0), NotRunning)
        await self.assertFailure(connect(reactor, "relative"), ValueError)
        waiting = connect(reactor, self.path)
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)

    async def test_a_client_that_is_busy_with_another_process(self) -> None:
        self.patch(tx_socket, "ANSWER_TIME", 0.2)
        self.serve()
        await self.connected()
        await self.assertFailure(connect(reactor, self.path, timeout=0), TimeoutError)

    async def test_a_mistake_in_us_leaves_nobody_waiting(self) -> None:
        service = self.serve()
        connection = await self.connected()
        receiving = connection.receive()

        async def broken() -> None:
            raise RuntimeError("a mistake")

        self.patch(connection, "_connect", broken)
        await service.stop()
        await self.assertFailure(receiving, ConnectionClosed)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    async def test_it_waits_for_the_client(self) -> None:
        connecting = connect(reactor, self.path)
        self.assertNoResult(connecting)
        self.serve()
        connection = await connecting
        await connection.close()
