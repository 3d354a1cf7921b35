"""The blocking connector of a process that connects to a Socket service, with our service at the other end."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client_connector import relentless, sockets
from fleetspeak.client_connector.sockets import ConnectionClosed, NotRunning, SocketConnection, UnsafeSocket
from fleetspeak.pb import common
from tests.client.process.children import message, until
from tests.client_connector.socketcase import ServiceCase, to_server

T = TypeVar("T")


class SocketConnectionCase(ServiceCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(sockets, "FIRST_DELAY", 0.05)
        self.patch(sockets.socketfile, "FIRST_DELAY", 0.05)
        logging.getLogger("fleetspeak").setLevel(logging.CRITICAL)

    async def connected(self, version: str = "0.5") -> SocketConnection:
        connection = await self.in_thread(lambda: SocketConnection(self.path, version, timeout=10))
        self.addCleanup(lambda: self.in_thread(connection.Close))
        return connection

    def in_thread(self, call: Callable[[], T]) -> Deferred[T]:
        """The program's own thread."""
        return deferToThread(call)


def echo(connection: SocketConnection) -> None:
    """A program that answers, until its connection is closed."""
    try:
        while True:
            request, _ = connection.Recv()
            answer = to_server(request.message_type + "Response")
            connection.Send(answer, wait=False)
    except ConnectionClosed:
        return


class Talking(SocketConnectionCase):
    async def test_item_112_one_process_and_three_clients_one_after_the_other(self) -> None:
        service = self.serve()
        connection = await self.connected()
        program = self.in_thread(lambda: echo(connection))
        for _ in range(3):
            for kind in ("RequestTypeA", "RequestTypeB"):
                await service.process(message(kind))
            await until(lambda: len(self.context.sent) == 2)
            self.assertEqual([16, 16], [len(sent.source_message_id) for sent in self.context.sent])
            self.context.confirm()
            await self.sent("RequestTypeAResponse", "RequestTypeBResponse")
            await until(lambda: not connection._machine.pending_ids())
            await service.stop()
            service = self.serve()
        await self.in_thread(connection.Close)
        await program

    async def test_send_returns_when_the_message_is_acknowledged(self) -> None:
        self.serve()
        connection = await self.connected()
        sending = self.in_thread(lambda: connection.Send(to_server("A")))
        await until(lambda: self.context.sent)
        self.assertNoResult(sending)
        self.context.confirm()
        self.assertEqual(to_server("A").ByteSize(), await sending)

    async def test_item_113_one_message_after_the_other(self) -> None:
        self.context.spooled = True
        self.serve()
        connection = await self.connected()

        def program() -> None:
            for number in range(5):
                connection.Send(to_server(str(number)))

        await self.in_thread(program)
        await self.sent("0", "1", "2", "3", "4")

    async def test_item_114_reconnecting_after_each_message(self) -> None:
        self.context.spooled = True
        self.serve()

        def program() -> None:
            for number in range(5):
                with SocketConnection(self.path, timeout=10) as connection:
                    connection.Send(to_server(str(number)))

        await self.in_thread(program)
        await self.sent("0", "1", "2", "3", "4")

    async def test_without_waiting_then_flush(self) -> None:
        self.context.spooled = True
        self.serve()
        connection = await self.connected()

        def program() -> int:
            for number in range(500):
                connection.Send(to_server(str(number)), wait=False)
            connection.Flush()
            return len(self.context.sent)

        self.assertEqual(500, await self.in_thread(program))
        self.assertEqual([str(number) for number in range(500)], self.types())

    async def test_what_was_not_acknowledged_is_sent_again_to_the_next_client(self) -> None:
        service = self.serve()
        connection = await self.connected()
        sending = self.in_thread(lambda: connection.Send(to_server("A")))
        await until(lambda: self.context.sent)
        await service.stop()  # without having confirmed it
        first = self.context.sent.pop()
        self.serve()
        await until(lambda: self.context.sent)
        self.assertEqual([first], self.context.sent)
        self.assertNoResult(sending)
        self.context.confirm()
        await sending

    async def test_a_heartbeat_is_not_sent(self) -> None:
        self.context.spooled = True
        self.serve()
        connection = await self.connected()
        await self.in_thread(connection.Heartbeat)
        await self.in_thread(lambda: connection.Send(to_server("A")))
        await self.sent("A")

    async def test_an_ack_behind_many_messages_is_found(self) -> None:
        """More of them than are read ahead, and nobody receives while Send waits."""
        service = self.serve()
        connection = await self.connected()
        sending = self.in_thread(lambda: connection.Send(to_server("A")))
        await until(lambda: self.context.sent)
        big = message("Big")
        big.data.value = bytes(40_000)
        for _ in range(20):
            await service.process(big)
        self.context.confirm()
        await sending
        for _ in range(20):
            await self.in_thread(connection.Recv)

    async def test_an_ack_behind_too_many_messages_is_told_of(self) -> None:
        self.patch(relentless, "MAX_RECEIVED_BYTES", 100_000)
        service = self.serve()
        connection = await self.connected()
        sending = self.in_thread(lambda: connection.Send(to_server("A")))
        await until(lambda: self.context.sent)
        for _ in range(90):
            await service.process(message("x" * 1000))
        await self.assertFailure(sending, BufferError)
        self.context.confirm()
        for _ in range(90):
            await self.in_thread(connection.Recv)
        await self.in_thread(connection.Flush)

    async def test_messages_that_nobody_receives_stay_with_the_client(self) -> None:
        service = self.serve()
        connection = await self.connected()
        big = message("Big")
        big.data.value = bytes(100_000)
        waiting = []
        for _ in range(30):
            waiting.append(self.process(service, big))
            if not waiting[-1].called:
                try:
                    await waiting[-1].addTimeout(0.2, reactor)  # type: ignore[arg-type]
                except Exception:
                    break
        self.assertLess(len(waiting), 20)
        self.assertLess(len(connection._machine._inbox), 10)

    async def test_many_threads(self) -> None:
        self.context.spooled = True
        self.serve()
        connection = await self.connected()

        def program(thread: int) -> None:
            for number in range(20):
                connection.Send(to_server(f"{thread}-{number}"))

        threads = [threading.Thread(target=program, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        await until(lambda: not any(thread.is_alive() for thread in threads))
        self.assertEqual(100, len(set(self.types())))


class Limits(SocketConnectionCase):
    async def test_a_full_table_blocks_and_says_so_in_time(self) -> None:
        self.patch(relentless, "MAX_PENDING", 2)
        self.serve()
        connection = await self.connected()

        def program() -> None:
            for _ in range(2):
                connection.Send(to_server("kept"), wait=False)
            self.assertRaises(TimeoutError, connection.Send, to_server("refused"), timeout=0.05)
            self.assertRaises(TimeoutError, connection.Flush, timeout=0.05)
            self.assertRaises(TimeoutError, connection.Recv, timeout=0.05)

        await self.in_thread(program)
        blocked = self.in_thread(lambda: connection.Send(to_server("last"), wait=False))
        await until(lambda: len(self.context.sent) == 2)
        self.assertNoResult(blocked)
        self.context.confirm()
        await blocked
        await until(lambda: self.types() == ["kept", "kept", "last"])

    async def test_what_cannot_be_sent_is_refused(self) -> None:
        self.serve()
        connection = await self.connected()
        self.assertRaises(ValueError, connection.Send, object())
        self.assertRaises(
            ValueError, connection.Send, common.Message(destination=common.Address(service_name="system"))
        )

    async def test_close_wakes_whoever_waits(self) -> None:
        self.serve()
        connection = await self.connected()
        waiting: list[Deferred[object]] = [
            self.in_thread(lambda: connection.Send(to_server("A"))),
            self.in_thread(connection.Recv),
        ]
        await until(lambda: self.context.sent)
        await self.in_thread(connection.Close)
        for each in waiting:
            await self.assertFailure(each, ConnectionClosed)
        self.assertRaises(ConnectionClosed, connection.Heartbeat)
        self.assertRaises(ConnectionClosed, connection.Send, to_server("B"))
        connection.Close()
        self.assertFalse(connection._thread.is_alive())

    async def test_a_mistake_in_us_leaves_nobody_waiting(self) -> None:
        service = self.serve()
        connection = await self.connected()
        receiving = self.in_thread(connection.Recv)
        self.patch(sockets, "_connect", broken)
        await service.stop()
        await self.assertFailure(receiving, ConnectionClosed)


def broken(path: str) -> socket.socket:
    raise RuntimeError("a mistake")


class Connecting(SocketConnectionCase):
    def assert_not_connected(self, expected: type[Exception], timeout: float = 0) -> str:
        return str(self.assertRaises(expected, SocketConnection, self.path, timeout=timeout))

    def test_no_client(self) -> None:
        self.assertIn("not running yet", self.assert_not_connected(NotRunning))
        os.mkdir(os.path.dirname(self.path), 0o700)
        self.assertIn("not running yet", self.assert_not_connected(NotRunning))
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(self.path)
            os.chmod(self.path, 0o600)
            self.assertIn("nobody listens", self.assert_not_connected(NotRunning))

    def test_a_socket_that_others_can_reach_or_have_made(self) -> None:
        self.occupy()
        self.assertIn("expected srw-------", self.assert_not_connected(UnsafeSocket))
        os.unlink(self.path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            os.chmod(self.path, 0o660)
            self.assertIn("srw-rw----, expected", self.assert_not_connected(UnsafeSocket))
            os.chmod(self.path, 0o600)
            os.chmod(os.path.dirname(self.path), 0o711)
            self.assertIn("drwx--x--x, expected", self.assert_not_connected(UnsafeSocket))

    def test_a_path_that_no_socket_can_have(self) -> None:
        self.assertRaises(ValueError, SocketConnection, "relative", timeout=0)
        self.assertRaises(ValueError, SocketConnection, "/" + "x" * 200, timeout=0)

    async def test_it_waits_for_the_client(self) -> None:
        connecting = self.in_thread(lambda: SocketConnection(self.path))
        attempted = threading.Event()
        check = sockets.socketfile.check

        def noted(path: str) -> None:
            attempted.set()
            check(path)

        self.patch(sockets.socketfile, "check", noted)
        await self.in_thread(attempted.wait)
        self.serve()
        connection = await connecting
        await self.in_thread(connection.Close)

    async def test_a_client_that_is_busy_with_another_process(self) -> None:
        self.patch(sockets, "ANSWER_TIME", 0.2)
        self.serve()
        await self.connected()
        before = threading.active_count()
        error = await self.assertFailure(self.in_thread(lambda: SocketConnection(self.path, timeout=0)), TimeoutError)
        self.assertIn("busy with another process", str(error))
        await until(lambda: threading.active_count() <= before + 1)

    async def test_a_client_that_always_hangs_up_is_not_hammered(self) -> None:
        os.mkdir(os.path.dirname(self.path), 0o700)
        accepted: list[float] = []
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.path)
            os.chmod(self.path, 0o600)
            listening.listen()
            listening.settimeout(5)

            def client() -> None:
                while len(accepted) < 4:
                    connection, _ = listening.accept()
                    accepted.append(time.monotonic())
                    connection.close()

            hanging_up = self.in_thread(client)
            connecting = self.in_thread(lambda: SocketConnection(self.path, timeout=1))
            await self.assertFailure(connecting, TimeoutError)
            await hanging_up
        gaps = [later - earlier for earlier, later in itertools.pairwise(accepted)]
        self.assertTrue(all(gap >= 0.04 for gap in gaps), gaps)


class Module(SynchronousTestCase):
    def test_needs_no_twisted(self) -> None:
        code = (
            "import sys, fleetspeak.client_connector.sockets; "
            "sys.exit(any(name.split('.')[0] in ('twisted', 'grpc', 'zope', 'absl', 'cryptography') "
            "for name in sys.modules))"
        )
        self.assertEqual(0, subprocess.run([sys.executable, "-c", code], check=False).returncode)
