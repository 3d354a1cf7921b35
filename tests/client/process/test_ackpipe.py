"""The ack pipe, with real pipes and real processes."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import TestCase

from fleetspeak.client.process.ackpipe import SMALL_PIPE, VARIABLE, AckPipe, make_small
from fleetspeak.client.process.outflow import PIPE_SHARE
from fleetspeak.pb import common
from tests.client.process.children import connected_python, until
from tests.client.services.test_daemon import HEAD, DaemonCase

SEND = "connection.Send(common.Message(message_type={}, destination=common.Address(service_name='S')))\n"


def numbers(data: bytes) -> list[int]:
    return [number for (number,) in struct.iter_unpack("<Q", data)]


class Pipes(TestCase):
    def setUp(self) -> None:
        self.pipe = AckPipe(reactor)
        self.pipe.open()
        self.addCleanup(self.pipe.close)
        self.reader = os.dup(self.pipe.descriptors()[5])
        self.addCleanup(lambda: os.close(self.reader))
        self.pipe.started()

    def read(self) -> list[int]:
        os.set_blocking(self.reader, False)
        try:
            return numbers(os.read(self.reader, 1 << 20))
        except BlockingIOError:
            return []

    def test_numbers_are_little_endian(self) -> None:
        self.pipe.tell(1)
        self.pipe.tell(0x0102030405060708)
        self.assertEqual(bytes.fromhex("0100000000000000 0807060504030201"), os.read(self.reader, 100))

    async def test_of_a_reader_that_does_not_read_only_the_newest_number_waits(self) -> None:
        last = 100_000
        for number in range(1, last + 1):
            self.pipe.tell(number)
        first: list[int] = self.read()
        self.assertEqual(list(range(1, len(first) + 1)), first)
        rest: list[int] = []
        await until(lambda: rest.extend(self.read()) or rest)  # type: ignore[func-returns-value]
        self.assertEqual([last], rest)
        self.pipe.tell(last + 1)
        self.assertEqual([last + 1], self.read())

    def test_a_reader_that_is_gone_does_no_harm(self) -> None:
        os.close(self.reader)
        self.reader = os.open(os.devnull, os.O_RDONLY)
        self.pipe.tell(1)
        self.pipe.tell(2)
        self.assertFalse(self.pipe.offered)

    async def test_the_end_is_seen(self) -> None:
        for number in range(10_000):
            self.pipe.tell(number)
        self.pipe.close()
        self.pipe.close()
        self.pipe.tell(1)
        os.set_blocking(self.reader, False)
        ends: list[bytes] = []

        def at_end() -> bool:
            try:
                ends.append(os.read(self.reader, 1 << 20))
            except BlockingIOError:
                return False
            return ends[-1] == b""

        await until(at_end)

    def test_the_variable_of_an_outer_client_is_not_passed_on(self) -> None:
        outer = {VARIABLE: "5", "HOME": "/"}
        self.assertEqual({VARIABLE: "5", "HOME": "/"}, self.pipe.environment(outer))
        self.assertEqual({"HOME": "/"}, AckPipe(reactor).environment(outer))

    def test_the_pipe_and_what_is_in_flight_are_no_more_than_one_pipe(self) -> None:
        """The figure in doc/operating.md; the 8 KiB are what Twisted reads at a time."""
        self.assertEqual(64 * 1024, SMALL_PIPE + PIPE_SHARE + 8 * 1024)
        if sys.platform == "linux":
            import fcntl

            make_small(self.reader)
            self.assertEqual(SMALL_PIPE, fcntl.fcntl(self.reader, fcntl.F_GETPIPE_SZ))


class Daemons(DaemonCase):
    """`FleetspeakConnection.Send` of a real process against the real client side."""

    def program(self, code: str) -> tuple[str, ...]:
        return connected_python(HEAD + "import subprocess, threading\n" + code + "\ntime.sleep(60)")

    async def test_send_returns_when_the_message_is_accepted(self) -> None:
        self.context.spooled = True
        self.context.hold = True
        self.daemon(self.program(SEND.format("'first'") + SEND.format("'second'")))
        await until(lambda: self.context._held)
        self.context.accept()
        await until(lambda: len(self.context.sent) == 2)
        self.assertEqual(["first", "second"], self.types())

    async def test_without_a_spool_it_returns_at_once(self) -> None:
        self.context.hold = True
        self.daemon(self.program(f"assert '{VARIABLE}' not in os.environ\n" + SEND.format("'a'") + SEND.format("'b'")))
        await until(lambda: len(self.context._held) == 2)

    async def test_threads_wait_together(self) -> None:
        self.context.spooled = True
        self.context.hold = True
        code = (
            "def send(n):\n  for i in range(50):\n    " + SEND.format("f'{n}-{i}'") + "threads = "
            "[threading.Thread(target=send, args=(n,)) for n in range(8)]\n"
            "for t in threads: t.start()\n"
            "for t in threads: t.join()\n" + SEND.format("'all'")
        )
        self.daemon(self.program(code))
        await until(lambda: len(self.context._held) == 8)
        self.context.accept()
        await until(lambda: len(self.context.sent) == 401)
        self.assertEqual("all", self.types()[-1])
        self.assertEqual(401, len(set(self.types())))

    async def test_a_refused_message_counts(self) -> None:
        self.context.spooled = True
        code = "connection.Send(common.Message())\n" + SEND.format("'next'")

        self.patch(self.context, "send", _refusing(self.context.send))
        self.daemon(self.program(code))
        await until(lambda: self.types() == ["next"])

    async def test_the_descriptor_does_not_leak_to_the_services_own_children(self) -> None:
        self.context.spooled = True
        code = (
            "code = 'import os; print(os.path.exists(\"/proc/self/fd/5\"))'\n"
            "has = subprocess.run([sys.executable, '-I', '-S', '-c', code], close_fds=False, "
            "stdout=subprocess.PIPE, text=True).stdout.strip()\n" + SEND.format("has")
        )
        self.daemon(self.program(code))
        await until(lambda: self.context.sent)
        self.assertEqual(["False"], self.types())

    async def test_a_process_without_it_that_ignores_the_pipe(self) -> None:
        """As upstream's connector does: it never asks, and is never told."""
        self.context.spooled = True
        code = f"os.environ.pop('{VARIABLE}')\n"
        argv = (sys.executable, "-c", "import os, sys, time\n" + code + _hello() + SEND.format("'old'") * 3 + _told())
        self.daemon(argv)
        await until(lambda: len(self.context.sent) == 4)
        self.assertEqual(["old", "old", "old", "told nothing"], self.types())


def _hello() -> str:
    return (
        "from fleetspeak.client_connector.connector import FleetspeakConnection\n"
        "connection = FleetspeakConnection('1.0')\n" + HEAD
    )


def _told() -> str:
    return (
        "import select\n"
        "told = 'told' if select.select([5], [], [], 0.1)[0] else 'told nothing'\n"
        + SEND.format("told")
        + "time.sleep(60)"
    )


def _refusing(accept: Callable[..., Deferred[None]]) -> Callable[..., Deferred[None]]:
    def send(sent: common.Message, on_ack: None = None) -> Deferred[None]:
        return accept(sent, on_ack) if sent.destination.service_name else fail(ValueError("destination must have"))

    return send
