"""The asyncio connector: as a daemon with real processes, and over a socket with our service at the other end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fleetspeak.client_connector import aio, relentless, socketfile
from fleetspeak.client_connector.aio import ConnectionClosed, NotRunning, UnsafeSocket, connect
from fleetspeak.client_connector.aio import socket as aio_socket
from fleetspeak.client_connector.aio.daemon import DaemonConnection
from fleetspeak.pb import common
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelframes import MAGIC
from tests.client.process.children import message, until
from tests.client_connector.socketcase import ServiceCase, to_server
from tests.client_connector.variants import AIO_HEAD, AIO_TAIL, DaemonVariants

T = TypeVar("T")


class Daemons(DaemonVariants, TestCase):
    head = AIO_HEAD
    tail = AIO_TAIL


class Pipes(SynchronousTestCase):
    """A daemon's connection over pipes of the test: what no well-behaved client does, and cancellation."""

    def setUp(self) -> None:
        self.to_process, self.from_process = os.pipe(), os.pipe()
        self.ack_pipe = os.pipe()
        self.ours = [self.to_process[1], self.from_process[0], self.ack_pipe[1]]
        self.addCleanup(lambda: [os.close(descriptor) for descriptor in self.ours])

    def run_with(self, program: Any, *, acks: bool = False) -> None:
        async def main() -> None:
            read, write = self.to_process[0], self.from_process[1]
            os.write(self.to_process[1], MAGIC)
            if not acks:
                os.close(self.ack_pipe[0])
            connection = DaemonConnection(read, write, self.ack_pipe[0] if acks else None, "0.5")
            await connection.begin()
            try:
                await asyncio.wait_for(program(connection), 10)
            finally:
                await connection.close()

        asyncio.run(main())

    def give(self, *types: str) -> None:
        for each in types:
            frame = channelframes.encode(common.Message(message_type=each).SerializeToString())
            os.write(self.to_process[1], frame)

    def taken(self) -> list[str]:
        """The types of what the process has written."""
        bodies = channelframes.Decoder().feed(os.read(self.from_process[0], 1 << 20))
        return [common.Message.FromString(body).message_type for body in bodies]

    def test_a_cancelled_receive_loses_nothing(self) -> None:
        async def program(connection: DaemonConnection) -> None:
            frame = channelframes.encode(common.Message(message_type="cut").SerializeToString())
            waiting = asyncio.create_task(connection.receive())
            await asyncio.sleep(0)
            os.write(self.to_process[1], frame[:6])
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.wait([waiting])
            os.write(self.to_process[1], frame[6:])
            self.give("next")
            self.assertEqual("cut", (await connection.receive()).message_type)
            self.assertEqual("next", (await connection.receive()).message_type)

        self.run_with(program)

    def test_a_cancelled_send_leaves_whole_messages(self) -> None:
        async def program(connection: DaemonConnection) -> None:
            big = to_server("big")
            big.data.value = bytes(200_000)
            first = asyncio.create_task(connection.send(big))
            second = asyncio.create_task(connection.send(to_server("taken back")))
            third = asyncio.create_task(connection.send(to_server("last")))
            await asyncio.sleep(0.01)
            for task in (first, second):
                task.cancel()
            await asyncio.wait([first, second])
            loop = asyncio.get_running_loop()
            decoder = channelframes.Decoder()
            types: list[str] = []
            while "last" not in types:
                data = await loop.run_in_executor(None, os.read, self.from_process[0], 1 << 16)
                types += [common.Message.FromString(body).message_type for body in decoder.feed(data)]
            self.assertEqual(["StartupData", "big", "last"], types)
            await third

        self.run_with(program)

    def test_acks_may_skip_numbers(self) -> None:
        async def program(connection: DaemonConnection) -> None:
            sending = [asyncio.create_task(connection.send(to_server(str(number)))) for number in range(3)]
            await asyncio.sleep(0.01)
            self.assertFalse(any(task.done() for task in sending))
            os.write(self.ack_pipe[1], struct.pack("<Q", 2))
            await sending[0]
            await sending[1]
            self.assertFalse(sending[2].done())
            os.write(self.ack_pipe[1], struct.pack("<Q", 3))
            await sending[2]

        self.run_with(program, acks=True)
        self.assertEqual(["StartupData", "WantAcks", "0", "1", "2"], self.taken())

    def test_a_client_that_dies_before_it_has_the_message(self) -> None:
        async def program(connection: DaemonConnection) -> None:
            sending = asyncio.create_task(connection.send(to_server("lost?")))
            await asyncio.sleep(0.01)
            self.give("left")
            os.close(self.ours.pop())
            with self.assertRaises(ConnectionClosed):
                await sending
            self.assertEqual("left", (await connection.receive()).message_type)

        self.run_with(program, acks=True)

    def test_the_end(self) -> None:
        async def program(connection: DaemonConnection) -> None:
            self.give("one", "two")
            os.close(self.ours.pop(0))
            self.assertEqual(["one", "two"], [each.message_type async for each in connection])
            with self.assertRaises(ConnectionClosed):
                await connection.receive()
            os.close(self.ours.pop(0))
            with self.assertRaises(ConnectionClosed):
                await connection.send(to_server("lost"))

        self.run_with(program)

    def test_garbage(self) -> None:
        async def program(connection: DaemonConnection) -> None:
            os.write(self.to_process[1], b"\xff" * 4)
            with self.assertRaises(aio.ProtocolError):
                await connection.receive()

        self.run_with(program)

    def test_what_cannot_be_sent_is_refused(self) -> None:
        async def program(connection: DaemonConnection) -> None:
            with self.assertRaises(ValueError):
                await connection.send(common.Message(destination=common.Address(service_name="system")))

        self.run_with(program)

    def test_no_daemon(self) -> None:
        self.patch(os, "environ", {})
        with self.assertRaises(ValueError):
            asyncio.run(connect())


class SocketVariant(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        for module in (aio_socket, socketfile):
            self.patch(module, "FIRST_DELAY", 0.05)
        logging.getLogger("fleetspeak").setLevel(logging.CRITICAL)

    def running(self, program: Coroutine[Any, Any, T]) -> Deferred[T]:
        """The program, with an event loop of its own."""
        return deferToThread(lambda: asyncio.run(asyncio.wait_for(program, 20)))


class Sockets(SocketVariant):
    async def test_item_112_one_process_and_three_clients_one_after_the_other(self) -> None:
        self.context.spooled = True
        service = self.serve()

        async def program() -> None:
            async with await connect(self.path, version="0.5") as connection:
                async for request in connection:
                    await connection.send(to_server(request.message_type + "Response"))
                    if request.message_type == "Last":
                        return

        running = self.running(program())
        for _ in range(3):
            for kind in ("RequestTypeA", "RequestTypeB"):
                await service.process(message(kind))
            await self.sent("RequestTypeAResponse", "RequestTypeBResponse")
            await service.stop()
            service = self.serve()
        await service.process(message("Last"))
        await running
        await self.sent("LastResponse")

    async def test_items_113_114_send_is_done_when_acknowledged_and_connections_may_be_many(self) -> None:
        self.serve()
        done: list[str] = []

        async def program() -> None:
            for number in range(5):
                async with await connect(self.path) as connection:
                    await connection.send(to_server(str(number)))
                    done.append(str(number))

        running = self.running(program())
        for number in range(5):
            await until(lambda number=number: len(self.context.sent) == number + 1)  # type: ignore[misc]
            self.assertEqual(number, len(done))
            self.context.confirm()
        await running

    async def test_many_at_a_time_and_flush(self) -> None:
        self.context.spooled = True
        self.serve()

        async def program() -> None:
            async with await connect(self.path) as connection:
                await connection.heartbeat()
                await asyncio.gather(*(connection.send(to_server(f"a{number}")) for number in range(200)))
                for number in range(200):
                    await connection.send(to_server(f"b{number}"), wait=False)

        await self.running(program())
        self.assertEqual(400, len(set(self.types())))

    async def test_what_was_not_acknowledged_is_sent_again(self) -> None:
        service = self.serve()

        async def program() -> int:
            async with await connect(self.path) as connection:
                return await connection.send(to_server("A"))

        running = self.running(program())
        await until(lambda: self.context.sent)
        await service.stop()
        first = self.context.sent.pop()
        self.serve()
        await until(lambda: self.context.sent)
        self.assertEqual([first], self.context.sent)
        self.context.confirm()
        self.assertEqual(to_server("A").ByteSize(), await running)

    async def test_an_ack_behind_many_messages_is_found_and_messages_stay_with_the_client(self) -> None:
        service = self.serve()

        async def program() -> int:
            async with await connect(self.path) as connection:
                await connection.send(to_server("A"))
                count = 0
                async for _ in connection:
                    count += 1
                    if count == 20:
                        return count
            return 0

        running = self.running(program())
        await until(lambda: self.context.sent)
        big = message("Big")
        big.data.value = bytes(40_000)
        for _ in range(20):
            await service.process(big)
        self.context.confirm()
        self.assertEqual(20, await running)

    async def test_an_ack_behind_too_many_messages_is_told_of(self) -> None:
        self.patch(relentless, "MAX_RECEIVED_BYTES", 100_000)
        service = self.serve()

        async def program() -> None:
            async with await connect(self.path) as connection:
                with self.assertRaises(BufferError):
                    await connection.send(to_server("A"))
                for _ in range(90):
                    await connection.receive()

        running = self.running(program())
        await until(lambda: self.context.sent)
        for _ in range(90):
            await service.process(message("x" * 1000))
        self.context.confirm()
        await running

    async def test_a_full_table_blocks_and_cancelling_takes_the_message_back(self) -> None:
        self.patch(relentless, "MAX_PENDING", 2)
        self.serve()

        async def program() -> None:
            async with await connect(self.path) as connection:
                for _ in range(2):
                    await connection.send(to_server("kept"), wait=False)
                with self.assertRaises(TimeoutError):
                    await asyncio.wait_for(connection.send(to_server("refused"), wait=False), 0.05)
                with self.assertRaises(TimeoutError):
                    await asyncio.wait_for(connection.receive(), 0.05)
                confirming.set()
                await connection.send(to_server("last"))

        confirming = threading.Event()
        running = self.running(program())
        await deferToThread(confirming.wait)
        self.context.confirm()
        await until(lambda: self.types() == ["kept", "kept", "last"])
        self.context.confirm()
        await running

    async def test_close_wakes_whoever_waits(self) -> None:
        self.serve()

        async def program() -> None:
            connection = await connect(self.path)
            waiting = [
                asyncio.create_task(connection.send(to_server("A"))),
                asyncio.create_task(connection.receive()),
            ]
            await asyncio.sleep(0.05)
            await connection.close()
            for task in waiting:
                with self.assertRaises(ConnectionClosed):
                    await task
            with self.assertRaises(ConnectionClosed):
                await connection.send(to_server("B"))
            await connection.close()
            self.assertEqual({asyncio.current_task()}, asyncio.all_tasks())

        await deferToThread(lambda: asyncio.run(program()))

    async def test_no_client_and_an_unsafe_socket(self) -> None:
        async def program() -> None:
            with self.assertRaises(NotRunning):
                await connect(self.path, timeout=0)
            os.mkdir(os.path.dirname(self.path), 0o700)
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(self.path)
                with self.assertRaises(UnsafeSocket):
                    await connect(self.path, timeout=0)
                os.chmod(self.path, 0o600)
                with self.assertRaises(NotRunning):
                    await connect(self.path, timeout=0)
            with self.assertRaises(ValueError):
                await connect("relative")
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(connect(self.path), 0.1)

        await self.running(program())

    async def test_a_client_that_is_busy_with_another_process(self) -> None:
        self.patch(aio_socket, "ANSWER_TIME", 0.2)
        self.serve()

        async def program() -> None:
            async with await connect(self.path):
                with self.assertRaises(TimeoutError):
                    await connect(self.path, timeout=0)

        await self.running(program())

    async def test_a_mistake_in_us_leaves_nobody_waiting(self) -> None:
        service = self.serve()
        received = threading.Event()

        async def broken() -> None:
            raise RuntimeError("a mistake")

        async def program() -> None:
            connection: Any = await connect(self.path)
            connection._connect = broken
            await connection.receive()
            received.set()
            with self.assertRaises(ConnectionClosed):
                await connection.receive()
            await connection.close()

        running = self.running(program())
        await service.process(message("A"))
        await deferToThread(received.wait)
        await service.stop()
        await running

    async def test_a_client_that_breaks_the_protocol_is_left(self) -> None:
        os.mkdir(os.path.dirname(self.path), 0o700)
        accepted: list[bytes] = []
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.path)
            os.chmod(self.path, 0o600)
            listening.listen()
            listening.settimeout(5)

            def client() -> None:
                for answer in (b"\xff" * 8, MAGIC):
                    connection, _ = listening.accept()
                    with connection:
                        connection.sendall(answer)
                        accepted.append(connection.recv(100))

            async def program() -> None:
                connection = await connect(self.path)
                await connection.close()

            serving = deferToThread(client)
            await self.running(program())
            await serving
        self.assertEqual([MAGIC, MAGIC], [data[:4] for data in accepted])


class Module(SynchronousTestCase):
    def test_needs_no_twisted(self) -> None:
        code = (
            "import sys, fleetspeak.client_connector.aio; "
            "sys.exit(any(name.split('.')[0] in ('twisted', 'grpc', 'zope', 'absl', 'cryptography') "
            "for name in sys.modules))"
        )
        self.assertEqual(0, subprocess.run([sys.executable, "-c", code], check=False).returncode)
