"""Notifications over HTTP: our notifier and our listener, with each other and with hostile company (server-core 7)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, readBody
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IListener, INotifier
from fleetspeak.server.notify import httplistener, httpnotifier
from fleetspeak.server.notify.httplistener import HttpListener
from fleetspeak.server.notify.httpnotifier import HttpNotifier
from fleetspeak.server.stats import ServerStats
from fleetspeak.testing.serverside import RecordingServerStats
from tests.programs import PATIENCE

SECRET = b"a secret of some length"


def client(number: int) -> ClientId:
    return ClientId(number.to_bytes(8, "big"))


class HttpCase(TestCase):
    def setUp(self) -> None:
        self.counted = RecordingServerStats()
        self.heard: list[ClientId] = []
        self.dispatched: list[ClientId] = []
        self.waiting: list[tuple[int, Deferred[None]]] = []

    def hear(self, client_id: ClientId) -> None:
        self.heard.append(client_id)
        for count, waiter in self.waiting:
            if len(self.heard) >= count and not waiter.called:
                waiter.callback(None)

    def outcomes(self) -> set[str]:
        """What was told of notifications."""
        return {outcome for outcome, _ in self.counted.calls("notified")}

    async def until_heard(self, count: int) -> None:
        if len(self.heard) < count:
            waiter: Deferred[None] = Deferred()
            self.waiting.append((count, waiter))
            await waiter.addTimeout(PATIENCE, reactor)  # type: ignore[arg-type]

    def listener(self, **options: Any) -> HttpListener:
        listener = HttpListener("127.0.0.1", 0, reactor, **options)
        listener.start(self.hear, lambda: None)
        self.addCleanup(lambda: Deferred.fromCoroutine(listener.stop()))
        return listener

    def notifier(self, secret: bytes | None = None, own: str = "own:1") -> HttpNotifier:
        stats = ServerStats([self.counted], reactor)
        notifier = HttpNotifier(self.dispatched.append, lambda: own, reactor, secret, stats)
        self.addCleanup(lambda: Deferred.fromCoroutine(notifier.stop()))
        return notifier

    async def until(self, true: Callable[[], bool], what: str) -> None:
        for _ in range(int(PATIENCE / 0.02)):
            if true():
                return
            await deferLater(reactor, 0.02)  # type: ignore[arg-type]
        self.fail(f"{what}: not in time")

    def raw(self, behave: Callable[[Protocol, bytes], object], accept: Callable[[], object] = lambda: None) -> str:
        """A server that does whatever `behave` does with what it gets; gives its address."""

        class Peer(Protocol):
            def connectionMade(self) -> None:
                accept()

            def dataReceived(self, data: bytes) -> None:
                behave(self, data)

        factory = Factory.forProtocol(Peer)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return f"127.0.0.1:{port.getHost().port}"


class TogetherTests(HttpCase):
    """Ours to ours."""

    async def test_interfaces(self) -> None:
        verifyObject(INotifier, self.notifier())
        verifyObject(IListener, self.listener())

    async def test_section_13_ids_are_heard_in_the_order_sent(self) -> None:
        """server-core 13: a listener on an ephemeral port receives ids in the order sent."""
        listener, notifier = self.listener(), self.notifier()
        self.assertRegex(listener.address, r"\A127\.0\.0\.1:[1-9][0-9]*\Z")
        for number in range(1, 20):
            notifier.notify(listener.address, client(number))
            await self.until_heard(number)
        self.assertEqual(self.heard, [client(number) for number in range(1, 20)])
        await self.until(lambda: not notifier._under_way, "the answers are there")
        self.assertEqual(self.outcomes(), {"ok"})

    async def test_connections_are_kept(self) -> None:
        """server-core 7 [improve]: keep-alive; upstream's leak."""
        accepted: list[None] = []
        listener, notifier = self.listener(), self.notifier()
        build = listener._site.buildProtocol
        listener._site.buildProtocol = lambda addr: (accepted.append(None), build(addr))[1]  # type: ignore[method-assign]
        for number in range(1, 30):
            notifier.notify(listener.address, client(number))
            await self.until_heard(number)
            await self.until(lambda: not notifier._under_way, "the answer is there")
        self.assertEqual(len(accepted), 1)

    async def test_a_bounded_number_is_under_way(self) -> None:
        """server-core 7 [improve]: bounded number in flight; a client that waits already does not wait twice."""
        held: list[Protocol] = []

        def answer_later(peer: Protocol, data: bytes) -> None:
            held.append(peer)
            self.hear(ClientId(bytes.fromhex(data.split(b"/client/")[1][:16].decode())))

        address, notifier = self.raw(answer_later), self.notifier()
        most = httpnotifier.MAX_IN_FLIGHT
        for _ in range(3):
            for number in range(100):
                notifier.notify(address, client(number))
        await self.until_heard(most)
        self.assertEqual((len(notifier._under_way), notifier._waiting), (most, 100))
        answered = 0
        while answered < 100 + most:  # those that were under way when they were repeated are told again
            await self.until_heard(answered + 1)
            transport = held[answered].transport
            assert transport is not None
            transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            answered += 1
        await self.until(lambda: not notifier._under_way, "all are told")
        self.assertEqual(sorted(self.heard), sorted([*map(client, range(100)), *map(client, range(most))]))
        self.assertEqual((notifier._peers, notifier._waiting), ({}, 0))

    async def test_memory_is_bounded(self) -> None:
        self.patch(httpnotifier, "MAX_WAITING", 10)
        address, notifier = self.raw(lambda peer, data: None), self.notifier()
        with capturedLogs() as lines:
            for number in range(100):
                notifier.notify(address, client(number))
        self.assertEqual(notifier._waiting, 10)
        self.assertEqual([line["reason"] for line in lines], ["10 notifications wait already"])

    async def test_the_own_address_is_not_asked(self) -> None:
        self.notifier(own="127.0.0.1:1").notify("127.0.0.1:1", client(7))
        self.assertEqual(self.dispatched, [client(7)])

    async def test_what_is_no_address_is_one_line(self) -> None:
        notifier = self.notifier()
        with capturedLogs() as lines:
            for address in ("local", "redis:abcd", "", "host", "höst:80", "a:1/x", ":80"):
                notifier.notify(address, client(1))
        self.assertEqual([line["log_level"] for line in lines], [LogLevel.warn])
        self.assertIn("notification_listen_address", lines[0]["reason"])
        self.assertEqual(notifier._peers, {})


class TroubleTests(HttpCase):
    """The other side is slow, gone, lying, or ends the connection."""

    async def complaint(self, notifier: HttpNotifier, address: str) -> str:
        with capturedLogs() as lines:
            notifier.notify(address, client(1))
            await self.until(lambda: not notifier._under_way, "it is given up")
        [line] = [line for line in lines if line.get("address") == address]
        self.assertEqual(line["log_level"], LogLevel.warn)
        return str(line["reason"])

    async def test_a_server_that_is_gone(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            self.assertIn("refused", await self.complaint(self.notifier(), address))
            self.assertEqual(self.outcomes(), {"failed"})

    async def test_a_server_that_never_answers(self) -> None:
        """server-core 7 [improve]: a time-out of a few seconds; what waits for it is dropped, not tried one by one."""
        self.patch(httpnotifier, "TIMEOUT", 0.2)
        notifier = self.notifier()
        address = self.raw(lambda peer, data: self.heard.append(client(0)))
        for number in range(2, 100):
            notifier.notify(address, client(number))
        with capturedLogs() as lines:
            await self.until(lambda: not notifier._under_way, "it is given up")
        self.assertLessEqual(len(self.heard), httpnotifier.MAX_IN_FLIGHT)
        [line] = [line for line in lines if line.get("address") == address]
        self.assertIn("no answer in time; 90 others were not tried", line["reason"])
        self.assertEqual(self.outcomes(), {"timeout"})
        self.assertEqual((notifier._waiting, notifier._peers), (0, {}))

    async def test_a_server_that_answers_without_end(self) -> None:
        def flood(peer: Protocol, data: bytes) -> None:
            assert peer.transport is not None
            peer.transport.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000)

        reason = await self.complaint(self.notifier(), self.raw(flood))
        self.assertIn("status 500", reason)
        self.assertEqual(self.outcomes(), {"refused"})
        self.assertLess(len(reason), 2 * httpnotifier.MAX_ANSWER)

    async def test_a_server_that_speaks_something_else(self) -> None:
        def greet(peer: Protocol, data: bytes) -> None:
            assert peer.transport is not None
            peer.transport.write(b"220 mail.example ESMTP\r\n")
            peer.transport.loseConnection()

        await self.complaint(self.notifier(), self.raw(greet))

    async def test_an_answer_that_is_not_200_is_logged_sparsely(self) -> None:
        """server-core 7 [improve]: upstream's notifier ignores the status."""
        listener, notifier = self.listener(secret=SECRET), self.notifier()
        with capturedLogs() as lines:
            for number in range(5):
                notifier.notify(listener.address, client(number))
            await self.until(lambda: not notifier._under_way, "all are answered")
        told = [str(line["reason"]) for line in lines if "reason" in line]
        self.assertEqual(len(told), 1)
        self.assertIn("status 401", told[0])

    async def test_a_kept_connection_that_was_closed(self) -> None:
        """The notification is made again on a new one: it may be repeated without harm."""
        requests: list[Protocol] = []

        def once(peer: Protocol, data: bytes) -> None:
            assert peer.transport is not None
            if peer in requests:
                peer.transport.abortConnection()  # type: ignore[attr-defined]
                return
            requests.append(peer)
            peer.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        address, notifier = self.raw(once), self.notifier()
        with capturedLogs() as lines:
            for number in range(3):
                notifier.notify(address, client(number))
                await self.until(lambda: not notifier._under_way, "it is told")
        self.assertEqual(len(requests), 3)
        self.assertEqual([line for line in lines if "reason" in line], [])

    async def test_stopping_gives_up_what_is_under_way(self) -> None:
        notifier = self.notifier()
        got: list[bytes] = []
        address = self.raw(lambda peer, data: got.append(data))
        for number in range(20):
            notifier.notify(address, client(number))
        await self.until(lambda: len(got) >= 8, "they are under way")
        await notifier.stop()
        self.assertEqual((len(notifier._under_way), notifier._waiting), (0, 0))
        notifier.notify(address, client(1))
        self.assertFalse(notifier._under_way)


class SecretTests(HttpCase):
    """server-core 7 [improve]: an optional shared secret."""

    async def test_with_the_same_secret(self) -> None:
        listener = self.listener(secret=SECRET)
        self.notifier(SECRET).notify(listener.address, client(1))
        await self.until_heard(1)

    async def test_a_listener_without_secret_hears_those_with_one(self) -> None:
        listener = self.listener()
        self.notifier(SECRET).notify(listener.address, client(1))
        await self.until_heard(1)

    async def test_others_are_not_heard(self) -> None:
        listener = self.listener(secret=SECRET)
        for secret in (None, b"another secret, as long"):
            notifier = self.notifier(secret)
            with capturedLogs() as lines:
                notifier.notify(listener.address, client(1))
                await self.until(lambda one=notifier: not one._under_way, "it is answered")  # type: ignore[misc]
            self.assertIn("status 401", "".join(str(line.get("reason")) for line in lines))
        self.assertEqual(self.heard, [])

    async def test_upstreams_servers_are_heard_where_that_is_allowed(self) -> None:
        """They know of no secret; a wrong one is refused there, too."""
        listener = self.listener(secret=SECRET, accept_unsigned=True)
        wrong = self.notifier(b"another secret, as long")
        wrong.notify(listener.address, client(1))
        await self.until(lambda: not wrong._under_way, "it is answered")
        self.assertEqual(self.heard, [])
        self.notifier().notify(listener.address, client(2))
        await self.until_heard(1)
        self.assertEqual(self.heard, [client(2)])


class ListenerTests(HttpCase):
    async def ask(self, listener: HttpListener, method: bytes, path: bytes) -> tuple[int, bytes]:
        agent = Agent(reactor)  # type: ignore[no-untyped-call]
        response = await agent.request(method, b"http://" + listener.address.encode() + path)
        return response.code, await readBody(response)  # type: ignore[no-untyped-call]

    async def test_section_7_the_replies_of_the_listener(self) -> None:
        listener = self.listener()
        good = b"/client/0000000000000001"
        self.assertEqual(await self.ask(listener, b"POST", good), (200, b""))
        self.assertEqual(await self.ask(listener, b"POST", good + b"?x=/y"), (200, b""))
        self.assertEqual(await self.ask(listener, b"GET", b"/other"), (404, b"not found\n"))
        self.assertEqual(await self.ask(listener, b"GET", good), (400, b"Unexpected method: GET\n"))
        self.assertEqual(await self.ask(listener, b"POST", b"/client/nil"), (400, b"Client id is required.\n"))
        self.assertEqual(self.heard, [client(1), client(1)])

    async def test_a_body_is_dropped(self) -> None:
        listener = self.listener()
        host, _, port = listener.address.partition(":")
        connection = socket.create_connection((host, int(port)))
        self.addCleanup(connection.close)
        head = b"POST /client/0000000000000001 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        connection.setblocking(False)
        connection.send(head)
        rest = memoryview(b"x" * 1_000_000)

        def send() -> bool:
            nonlocal rest
            with contextlib.suppress(BlockingIOError):
                rest = rest[connection.send(rest) :]
            return not rest

        await self.until(send, "the body is taken")
        await self.until_heard(1)

    async def test_connections_are_bounded(self) -> None:
        self.patch(httplistener, "MAX_CONNECTIONS", 2)
        listener, notifier = self.listener(), self.notifier()
        host, _, port = listener.address.partition(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(2)]
        await self.until(lambda: len(listener._site.channels) == 2, "both are there")
        notifier.notify(listener.address, client(1))
        await self.until(lambda: not notifier._under_way, "it is given up")
        self.assertEqual(self.heard, [])
        for connection in idle:
            connection.close()
        await self.until(lambda: not listener._site.channels, "they are gone")
        notifier.notify(listener.address, client(2))
        await self.until_heard(1)

    async def test_an_address_in_use_is_one_clear_error(self) -> None:
        port = int(self.listener().address.rpartition(":")[2])
        with self.assertRaisesRegex(ConfigError, f"notification_listen_address: cannot listen on .*:{port}: .*in use"):
            HttpListener("127.0.0.1", port, reactor).start(self.hear, lambda: None)

    async def test_the_configured_public_address_is_what_others_are_told(self) -> None:
        self.assertEqual(self.listener(public="fleet1.example:8081").address, "fleet1.example:8081")

    async def test_all_addresses(self) -> None:
        """server-core 7 [improve]: a usable public address is derived, or the start refused."""
        listener = HttpListener("", 0, reactor)
        with mock.patch.object(httplistener, "public_address", side_effect=lambda host, port, database: f"me:{port}"):
            listener.start(self.hear, lambda: None)
        self.addCleanup(lambda: Deferred.fromCoroutine(listener.stop()))
        port = int(listener.address.removeprefix("me:"))
        notifier = self.notifier()
        notifier.notify(f"127.0.0.1:{port}", client(1))
        await self.until_heard(1)
        refused = HttpListener("", 0, reactor)
        with (
            mock.patch.object(httplistener, "public_address", side_effect=ConfigError("no address")),
            self.assertRaises(ConfigError),
        ):
            refused.start(self.hear, lambda: None)
