"""Notifications through a real Redis server, and through what only looks like one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IListener, INotifier, INotifierFactory
from fleetspeak.program.awaiting import outcome_of
from fleetspeak.server.notify import redisnotifier
from fleetspeak.server.notify.redisnotifier import Connection, RedisNotifier, RedisNotifierFactory
from fleetspeak.wire.resp import command
from tests.programs import PATIENCE
from tests.redis import Redis

ALICE = ClientId(b"alice-id")

RIGHTS = ("+hello", "+ping", "+publish", "+subscribe", "&fleetspeak:*")
"""That doc/operating.md asks for."""


def client(number: int) -> ClientId:
    return ClientId(number.to_bytes(8, "big"))


class Server:
    """One server's notifier, and what it hears."""

    def __init__(self, argument: str, secret: bytes | None = None) -> None:
        made, self.listener = RedisNotifierFactory().make(argument, secret, reactor)
        assert isinstance(made, RedisNotifier)
        self.notifier = made
        self.heard: list[ClientId] = []
        self.changes = 0
        self.listener.start(self.heard.append, self.changed)

    def changed(self) -> None:
        self.changes += 1

    @property
    def connected(self) -> bool:
        return self.notifier._connection is not None


class RedisCase(TestCase):
    def server(self, argument: str, secret: bytes | None = None) -> Server:
        server = Server(argument, secret)
        self.addCleanup(lambda: outcome_of(server.notifier.stop()))
        return server

    async def until(self, true: Callable[[], bool], what: str) -> None:
        for _ in range(int(PATIENCE / 0.02)):
            if true():
                return
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]
        self.fail(f"{what}: not in time")


@contextmanager
def complaints() -> Iterator[list[LogEvent]]:
    """The warnings and errors that are logged meanwhile."""
    found: list[LogEvent] = []
    with capturedLogs() as lines:
        yield found
    found += [line for line in lines if line["log_level"].name in ("warn", "error", "critical")]


class RealTests(RedisCase):
    redis: Redis

    @classmethod
    def setUpClass(cls) -> None:
        cls.redis = Redis()
        cls.addClassCleanup(cls.redis.clean_up)

    async def servers(self, count: int = 2) -> list[Server]:
        servers = [self.server(f"unix:{self.redis.socket}"), self.server(f"tcp:127.0.0.1:{self.redis.port}")][:count]
        await self.until(lambda: all(server.connected for server in servers), "they are connected")
        return servers

    async def test_interfaces(self) -> None:
        [server] = await self.servers(1)
        verifyObject(INotifier, server.notifier)
        verifyObject(IListener, server.listener)
        verifyObject(INotifierFactory, RedisNotifierFactory())

    async def test_in_order_to_the_server_with_that_address_only(self) -> None:
        one, other = await self.servers()
        self.assertNotEqual(one.listener.address, other.listener.address)
        for number in range(1, 500):
            one.notifier.notify(other.listener.address, client(number))
        await self.until(lambda: len(other.heard) >= 499, "all are heard")
        self.assertEqual(other.heard, [client(number) for number in range(1, 500)])
        self.assertEqual(one.heard, [])
        one.notifier.notify(one.listener.address, ALICE)
        self.assertEqual(one.heard, [ALICE], "itself it tells without Redis")

    async def test_all_hear_of_changed_broadcasts(self) -> None:
        one, other = await self.servers()
        before = other.changes
        one.notifier.broadcasts_changed()
        await self.until(lambda: other.changes > before, "it hears of it")

    async def test_a_server_that_is_gone(self) -> None:
        """Is one line in the log."""
        one, other = await self.servers()
        await outcome_of(other.notifier.stop())
        await outcome_of(other.notifier.stop())
        with complaints() as lines:
            for number in range(5):
                one.notifier.notify(other.listener.address, client(number))
            one.notifier.notify("10.0.0.5:8081", ALICE)
            await self.until(
                lambda: one.notifier._connection is not None and one.notifier._connection.is_idle, "answers"
            )
        self.assertEqual(len(lines), 1)

    async def test_what_others_publish_on_our_channel_ends_nothing(self) -> None:
        [server] = await self.servers(1)
        channel = server.listener.address.replace("redis:", "fleetspeak:").encode()
        for text in (b"nonsense", b'"\\xff\\xfe"', b"nil", b"0" * 100, b'""'):
            self.assertEqual(self.redis.ask(b"PUBLISH " + channel + b" " + text), b":1\r\n")
        self.redis.ask(b"PUBLISH " + channel + b" " + ALICE.hex().encode())
        await self.until(lambda: bool(server.heard), "it still hears")
        self.assertEqual(server.heard, [ALICE])

    async def test_redis_is_killed_and_comes_back(self) -> None:
        """Meanwhile notifying fails without a word but one, and takes no time; afterwards all goes on."""
        one, other = await self.servers()
        self.redis.kill()
        await self.until(lambda: not one.connected and not other.connected, "they notice")
        with complaints() as lines:
            for number in range(100):
                one.notifier.notify(other.listener.address, client(number))
        self.assertEqual(len(lines), 1)
        before = other.changes
        self.redis.start()
        await self.until(lambda: one.connected and other.connected, "they are back")
        self.assertGreater(other.changes, before, "it may have missed a change of broadcasts")
        one.notifier.notify(other.listener.address, ALICE)
        await self.until(lambda: bool(other.heard), "it is heard")
        self.assertEqual(other.heard, [ALICE])

    async def test_redis_hangs(self) -> None:
        """Nobody waits, memory is bounded, and the connection is given up."""
        self.patch(redisnotifier, "TIMEOUT", 0.5)
        self.patch(redisnotifier, "MAX_UNANSWERED", 50)
        one, other = await self.servers()
        self.redis.signal(signal.SIGSTOP)
        try:
            for number in range(1000):
                one.notifier.notify(other.listener.address, client(number))
            assert one.notifier._connection is not None
            self.assertFalse(one.notifier._connection.room)
            await self.until(lambda: not one.connected, "it is given up")
        finally:
            self.redis.signal(signal.SIGCONT)
        await self.until(lambda: one.connected and other.connected, "they are back")

    async def test_an_idle_connection_is_tried(self) -> None:
        """A subscriber that only waits would not notice that the server is gone."""
        self.patch(redisnotifier, "IDLE", 0.1)
        self.patch(redisnotifier, "TIMEOUT", 0.5)
        [server] = await self.servers(1)
        self.redis.signal(signal.SIGSTOP)
        try:
            await self.until(lambda: not server.connected, "it is noticed")
        finally:
            self.redis.signal(signal.SIGCONT)
        await self.until(lambda: server.connected, "it is back")

    async def test_stopping_while_redis_is_away(self) -> None:
        server = self.server("unix:/nowhere/redis.sock")
        await outcome_of(server.notifier.stop())
        self.assertFalse(server.connected)


class PasswordTests(RedisCase):
    async def test_of_the_default_user_and_of_another_one(self) -> None:
        redis = Redis("--requirepass", "pa ss", "--user", "fleet", "on", ">word", *RIGHTS)
        self.addCleanup(redis.clean_up)
        for secret in (b"pa ss", b"fleet\nword", b"fleet\r\nword"):
            server = self.server(f"unix:{redis.socket}", secret)
            await self.until(lambda one=server: one.connected, "it is let in")  # type: ignore[misc]
            before = server.changes
            server.notifier.broadcasts_changed()
            await self.until(lambda one=server, count=before: one.changes > count, "it may publish")  # type: ignore[misc]

    async def test_a_wrong_one_is_said_and_tried_again(self) -> None:
        """The password itself is not logged.  When it becomes right, all is well."""
        redis = Redis("--requirepass", "right")
        self.addCleanup(redis.clean_up)
        with complaints() as lines:
            server = self.server(f"unix:{redis.socket}", b"wrong-HUSH")
            await self.until(lambda: server.notifier._troubles._held_back > 0, "it is refused twice")
        self.assertFalse(server.connected)
        self.assertIn("WRONGPASS", str(lines[0]["error"]))
        self.assertNotIn("HUSH", str(lines))
        redis.ask(b"AUTH right\r\nCONFIG SET requirepass wrong-HUSH")
        await self.until(lambda: server.connected, "it is let in")


class OtherTests(RedisCase):
    """What only looks like Redis."""

    def peer(self, says: bytes) -> str:
        class Peer(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(says)

        port = reactor.listenTCP(0, Factory.forProtocol(Peer), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return f"tcp:127.0.0.1:{port.getHost().port}"

    async def test_it_is_one_line_and_tried_again(self) -> None:
        for says in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"-ERR unknown command 'HELLO'\r\n",
            b"*1000000000\r\n",
            b">0\r\n>3\r\n_\r\n_\r\n_\r\n" * 3 + b"$99999999999\r\n",
            b":1\r\n:2\r\n",
        ):
            with complaints() as lines:
                server = self.server(self.peer(says))
                await self.until(lambda one=server: one.notifier._troubles._held_back > 0, "it is refused twice")  # type: ignore[misc]
                await outcome_of(server.notifier.stop())
            self.assertFalse(server.connected)
            self.assertEqual(len(lines), 1, lines)

    async def test_one_that_says_nothing(self) -> None:
        self.patch(redisnotifier, "TIMEOUT", 0.1)
        server = self.server(self.peer(b""))
        await self.until(lambda: server.notifier._troubles._held_back > 0, "it is given up twice")


class ArgumentTests(SynchronousTestCase):
    def test_what_is_no_endpoint(self) -> None:
        for argument in ("", "redis.example", "tcp:host", "pigeon:loft", "tcp:host:port"):
            with self.assertRaises(ConfigError) as raised:
                RedisNotifierFactory().make(argument, None, Clock())
            self.assertIn("no endpoint of a Redis server, such as unix:", str(raised.exception))


class ConnectionTests(SynchronousTestCase):
    """What goes over the wire."""

    def connect(self, login: bytes | None) -> StringTransport:
        connection = Connection(login, b"fleetspeak:me", *[lambda *_: None] * 3, Clock())
        transport = StringTransport()
        connection.makeConnection(transport)
        return transport

    def test_it_introduces_itself_first(self) -> None:
        for login, words in (
            (None, (b"HELLO", b"3")),
            (b"pass", (b"HELLO", b"3", b"AUTH", b"default", b"pass")),
            (b"user\npass word", (b"HELLO", b"3", b"AUTH", b"user", b"pass word")),
        ):
            self.assertEqual(self.connect(login).value(), command(*words))

    def test_a_silent_server(self) -> None:
        clock = Clock()
        connection = Connection(None, b"c", *[lambda *_: None] * 3, clock)
        transport = StringTransportWithDisconnection()
        transport.protocol = connection
        connection.makeConnection(transport)
        clock.advance(redisnotifier.TIMEOUT)
        self.assertFalse(transport.connected)
        self.assertEqual(clock.getDelayedCalls(), [])
