"""What the asyncio and the Twisted connector must both do; each runs these with programs of its own kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fleetspeak.client.services.daemon import DaemonFactory
from fleetspeak.client.services.daemonconfig import Limits
from fleetspeak.pb import daemon_config
from tests.client.process.children import context, message, until

AIO_HEAD = """
import asyncio, os, sys
from fleetspeak.client_connector.aio import connect, ConnectionClosed
from fleetspeak.pb import common
def to_server(kind): return common.Message(message_type=kind, destination=common.Address(service_name='S'))
async def start(): return await connect(version='1.0')
sleep = asyncio.sleep
"""
AIO_TAIL = "\nasyncio.run(main())"

TX_HEAD = """
import os, sys
from twisted.internet import task, reactor
from fleetspeak.client_connector.tx import connect, ConnectionClosed
from fleetspeak.pb import common
def to_server(kind): return common.Message(message_type=kind, destination=common.Address(service_name='S'))
def start(): return connect(reactor, version='1.0')
def sleep(seconds): return task.deferLater(reactor, seconds)
"""
TX_TAIL = "\ntask.react(lambda _: __import__('twisted.internet.defer').internet.defer.Deferred.fromCoroutine(main()))"

ECHO = """
async def main():
    connection = await start()
    async for message in connection:
        message.message_type += 'Response'
        await connection.send(message)
"""

SAY_HOW_IT_ENDS = """
async def main():
    connection = await start()
    await connection.heartbeat()
    try:
        await connection.receive()
    except ConnectionClosed:
        sys.stdout.write('closed')
    await connection.close()
"""

SEND_MANY = """
async def main():
    connection = await start()
    for number in range(200):
        await connection.send(to_server(str(number)), wait=False)
    await connection.flush()
    await connection.send(to_server('flushed'))
    await sleep(60)
"""

SEND_TWO = """
async def main():
    connection = await start()
    await connection.send(to_server('first'))
    await connection.send(to_server('second'))
    await sleep(60)
"""


class DaemonVariants:
    """Daemons with real processes; mixed into a `TestCase`."""

    head: str
    tail: str
    timeout = 40

    def start(self: Any, program: str, **config: Any) -> Any:
        """A Daemon service that runs this program."""
        argv: Sequence[str] = (sys.executable, "-c", self.head + program + self.tail)
        service = DaemonFactory().make(
            daemon_config.Config(argv=argv, disable_resource_monitoring=True, **config), self.context
        )
        service.start()  # type: ignore[func-returns-value]
        self.addCleanup(service.stop)
        return service

    def make_context(self: Any, *, spooled: bool) -> None:
        self.context = context()
        self.context.spooled = spooled

    def types(self: Any) -> list[str]:
        return [sent.message_type for sent in self.context.sent]

    async def test_items_89_120_a_loopback_child_answers(self: Any) -> None:
        for spooled in (False, True):
            self.make_context(spooled=spooled)
            service = self.start(ECHO)
            for kind in ("RequestTypeA", "RequestTypeB"):
                await service.process(message(kind))
            await until(lambda: len(self.context.sent) == 2)
            self.assertEqual(
                [message(kind) for kind in ("RequestTypeAResponse", "RequestTypeBResponse")], self.context.sent
            )
            await service.stop()

    async def test_large_messages_go_both_ways(self: Any) -> None:
        self.make_context(spooled=True)
        service = self.start(ECHO)
        big = message("Big")
        big.data.value = bytes(2 * 1024 * 1024 - 200)
        for _ in range(3):
            await service.process(big)
        await until(lambda: len(self.context.sent) == 3)
        self.assertEqual(big.data.value, self.context.sent[2].data.value)

    async def test_send_is_done_when_the_message_is_in_the_spool(self: Any) -> None:
        self.make_context(spooled=True)
        self.context.hold = True
        self.start(SEND_TWO)
        await until(lambda: self.context._held)
        self.assertEqual(["first"], [held[0].message_type for held in self.context._held])
        self.context.accept()
        await until(lambda: self.types() == ["first", "second"])

    async def test_without_a_spool_when_it_is_in_the_pipe(self: Any) -> None:
        self.make_context(spooled=False)
        self.context.hold = True
        self.start(SEND_TWO)
        await until(lambda: len(self.context._held) == 2)
        self.context.accept()

    async def test_flush_waits_for_all(self: Any) -> None:
        self.make_context(spooled=True)
        self.start(SEND_MANY)
        await until(lambda: len(self.context.sent) == 201)
        self.assertEqual([*(str(number) for number in range(200)), "flushed"], self.types())

    async def test_the_end_of_the_client_is_told(self: Any) -> None:
        self.make_context(spooled=False)
        params = daemon_config.Config.StdParams(service_name="Out", flush_bytes=100)
        service = self.start(SAY_HOW_IT_ENDS, std_params=params)
        await until(lambda: service._execution is not None and service._execution.startup is not None)
        await service.stop()
        (output,) = self.context.sent
        self.assertIn(b"closed", output.data.value)

    async def test_what_it_has_not_asked_for_goes_to_the_next_process(self: Any) -> None:
        """Nothing is read ahead."""
        self.make_context(spooled=False)
        program = """
async def main():
    connection = await start()
    message = await connection.receive()
    await connection.send(to_server(message.message_type))
    await sleep(0.2)
    os._exit(1)
"""
        argv: Sequence[str] = (sys.executable, "-c", self.head + program + self.tail)
        config = daemon_config.Config(argv=argv, disable_resource_monitoring=True)
        service = DaemonFactory(Limits(respawn_delay=0.05)).make(config, self.context)
        service.start()  # type: ignore[func-returns-value]
        self.addCleanup(service.stop)
        for number in range(3):
            await service.process(message(str(number)))
        await until(lambda: len(self.context.sent) >= 3, 30)
        self.assertEqual(["0", "1", "2"], self.types()[:3])
