"""The channel that calls a target: when it connects, what ends a call, and what it does after that."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fleetspeak.server.services.callchannel import CONNECT_LIMIT, CONNECT_PAUSE, TICK, CallChannel, CallConnection
from fleetspeak.wire.grpccalls import Status, request_body, request_head
from tests.wire.test_h2calls import SETTINGS, Peer, frame


class Wire(StringTransport):
    """What a connection writes to; the test says when it is lost."""

    protocol: CallConnection
    negotiatedProtocol: bytes | None = None  # noqa: N815
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


@implementer(IStreamClientEndpoint)
class Endpoint:
    """Connects when the test says so."""

    def __init__(self) -> None:
        self.attempts: list[tuple[Any, Deferred[Any]]] = []
        self.cancelled = 0

    def connect(self, factory: Any) -> Deferred[Any]:
        def cancel(_: object) -> None:
            self.cancelled += 1

        self.attempts.append((factory, Deferred(cancel)))
        return self.attempts[-1][1]

    def accept(self) -> Wire:
        """Let the last attempt succeed."""
        factory, done = self.attempts[-1]
        wire = Wire()
        wire.protocol = factory.buildProtocol(None)
        wire.protocol.makeConnection(wire)
        done.callback(wire.protocol)
        return wire

    def refuse(self) -> None:
        self.attempts[-1][1].errback(ConnectionRefusedError("no"))


class ChannelCase(SynchronousTestCase):
    tls = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.endpoint = Endpoint()
        self.channel = CallChannel(self.endpoint, request_head("/a/B", "a:1", tls=False), self.clock, tls=self.tls)

    def call(self, message: bytes = b"m", seconds: float = 29) -> Deferred[Status]:
        return self.channel.call(message, seconds)

    def exchange(self, wire: Wire, peer: Peer) -> None:
        """Bytes go both ways until there are none."""
        while True:
            self.clock.advance(0)
            out = wire.value()
            wire.clear()
            for event in peer.h2.receive_data(out) if out else ():
                peer.handle(event)
            back = peer.h2.data_to_send()
            if back:
                wire.protocol.dataReceived(back)
            if not out and not back:
                return

    def assert_ended(self, done: Deferred[Status], code: str, words: str = "") -> None:
        status = self.successResultOf(done)
        self.assertEqual(status.code, code, status)
        self.assertIn(words, status.details)

    def tearDown(self) -> None:
        self.channel.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CallTests(ChannelCase):
    def test_one_connection_for_all_calls(self) -> None:
        calls = [self.call(b"%d" % number) for number in range(500)]
        self.assertEqual(len(self.endpoint.attempts), 1)
        peer = Peer()
        self.exchange(self.endpoint.accept(), peer)
        self.assertEqual(list(peer.bodies.values()), [request_body(b"%d" % number) for number in range(500)])
        for done in calls:
            self.assert_ended(done, "OK")

    def test_calls_of_one_turn_are_one_write(self) -> None:
        wire = self.endpoint_of_a_used_channel()
        for _ in range(10):
            self.call()
        self.assertEqual(wire.value(), b"")
        self.clock.advance(0)
        self.assertEqual(wire.value().count(b"/a/B"), 10)

    def endpoint_of_a_used_channel(self) -> Wire:
        done = self.call()
        wire = self.endpoint.accept()
        self.exchange(wire, Peer())
        self.assert_ended(done, "OK")
        return wire

    def test_no_more_at_a_time_than_the_target_takes(self) -> None:
        peer = Peer(MAX_CONCURRENT_STREAMS=2)
        peer.answer_at_once = False
        first = [self.call() for _ in range(2)]
        wire = self.endpoint.accept()
        self.exchange(wire, peer)
        more = [self.call() for _ in range(2)]
        self.exchange(wire, peer)
        self.assertEqual(len(peer.bodies), 2)
        for number in list(peer.bodies):
            peer.answer(number)
        self.exchange(wire, peer)
        self.assertEqual(len(peer.bodies), 4)
        self.assertTrue(all(done.called for done in first))
        self.assertFalse(any(done.called for done in more))

    def test_cancelling(self) -> None:
        waiting = self.call()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        sent = self.call()
        wire, peer = self.endpoint.accept(), Peer()
        peer.answer_at_once = False
        self.exchange(wire, peer)
        self.assertEqual(len(peer.bodies), 1, "the first one was never sent")
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.clock.advance(0)
        self.assertIn(frame(3, 0, 1, b"\0\0\0\x08"), wire.value())

    def test_the_time_limit(self) -> None:
        waiting = self.call(seconds=5)
        self.clock.advance(5 + TICK)
        self.assert_ended(waiting, "DEADLINE_EXCEEDED")
        sent = self.call(seconds=5)
        wire, peer = self.endpoint.accept(), Peer()
        peer.answer_at_once = False
        self.exchange(wire, peer)
        self.clock.advance(4)
        wire.protocol.dataReceived(frame(6, 0, 0, b"12345678"))
        self.clock.advance(1 + TICK)
        self.assert_ended(sent, "DEADLINE_EXCEEDED")
        self.assertFalse(wire.aborted, "slow, but not dead")

    def test_a_connection_that_is_dead_is_not_used_again(self) -> None:
        """Of which nothing tells, if the target's machine is gone."""
        sent, later = self.call(seconds=5), self.call(seconds=20)
        wire, peer = self.endpoint.accept(), Peer()
        peer.answer_at_once = False
        self.exchange(wire, peer)
        self.clock.advance(1)
        unheard = self.call(seconds=4)
        self.clock.advance(4 + TICK)
        self.assert_ended(sent, "DEADLINE_EXCEEDED")
        self.assert_ended(unheard, "DEADLINE_EXCEEDED")
        self.assertTrue(wire.aborted)
        self.assert_ended(later, "UNAVAILABLE", "not heard of")

    def test_after_close(self) -> None:
        running = self.call()
        self.channel.close()
        self.assert_ended(running, "CANCELLED", "stopping")
        self.assertEqual(self.endpoint.cancelled, 1)
        self.assert_ended(self.call(), "CANCELLED")

    def test_close_ends_the_connection(self) -> None:
        wire = self.endpoint_of_a_used_channel()
        running = self.call()
        self.channel.close()
        self.assert_ended(running, "CANCELLED", "stopping")
        self.assertTrue(wire.aborted)


class ConnectingTests(ChannelCase):
    def test_a_target_that_is_down(self) -> None:
        """Calls fail; those that follow at once fail as well, without an attempt of their own."""
        calls = [self.call(), self.call()]
        self.endpoint.refuse()
        for done in calls:
            self.assert_ended(done, "UNAVAILABLE", "cannot connect: Connection was refused")
        self.assert_ended(self.call(), "UNAVAILABLE", "cannot connect")
        self.assertEqual(len(self.endpoint.attempts), 1)
        self.clock.advance(CONNECT_PAUSE)
        done = self.call()
        self.exchange(self.endpoint.accept(), Peer())
        self.assert_ended(done, "OK")

    def test_a_target_that_does_not_answer(self) -> None:
        done = self.call()
        self.clock.advance(CONNECT_LIMIT)
        self.assert_ended(done, "UNAVAILABLE", "no connection within 10 s")
        self.assertEqual(self.endpoint.cancelled, 1)

    def test_a_connection_that_is_lost(self) -> None:
        done = self.call()
        wire = self.endpoint.accept()
        wire.protocol.connectionLost(Failure(ConnectionResetError("reset")))
        self.assert_ended(done, "UNAVAILABLE", "the connection was lost: reset")
        self.clock.advance(CONNECT_PAUSE)
        done = self.call()
        self.exchange(self.endpoint.accept(), Peer())
        self.assert_ended(done, "OK")

    def test_a_target_that_speaks_something_else(self) -> None:
        done = self.call()
        wire = self.endpoint.accept()
        wire.protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assert_ended(done, "UNAVAILABLE", "does not speak HTTP/2")
        self.assertTrue(wire.aborted)
        wire.protocol.dataReceived(b"more")
        wire.protocol.connectionLost()

    def test_a_target_that_closes_in_an_orderly_way(self) -> None:
        """What it has not begun goes to another connection at once; what it has begun is answered on this one."""
        first = self.call()
        wire, peer = self.endpoint.accept(), Peer()
        peer.answer_at_once = False
        self.exchange(wire, peer)
        second = self.call()
        self.clock.advance(0)
        wire.protocol.dataReceived(frame(7, 0, 0, b"\0\0\0\1\0\0\0\0"))
        self.assertEqual(len(self.endpoint.attempts), 2)
        self.exchange(self.endpoint.accept(), Peer())
        self.assert_ended(second, "OK")
        self.assertNoResult(first)
        peer.answer(1)
        wire.protocol.dataReceived(peer.h2.data_to_send())
        self.assert_ended(first, "OK")
        self.assertTrue(wire.disconnecting)

    def test_a_target_that_refuses_again_and_again(self) -> None:
        """A call goes to another stream once, not for ever."""
        done = self.call()
        wire = self.endpoint.accept()
        wire.protocol.dataReceived(SETTINGS)
        for number in (1, 3):
            self.assertNoResult(done)
            self.clock.advance(0)
            wire.protocol.dataReceived(frame(3, 0, number, b"\0\0\0\7"))
        self.assert_ended(done, "UNAVAILABLE", "error 7")


class TlsTests(ChannelCase):
    tls = True

    def test_nothing_is_sent_before_the_handshake_is_over(self) -> None:
        done = self.call()
        wire = self.endpoint.accept()
        self.clock.advance(0)
        self.assertEqual(wire.value(), b"")
        wire.negotiatedProtocol = b"h2"
        wire.protocol.handshakeCompleted()
        self.exchange(wire, Peer())
        self.assert_ended(done, "OK")

    def test_a_handshake_without_end(self) -> None:
        done = self.call()
        wire = self.endpoint.accept()
        self.clock.advance(CONNECT_LIMIT)
        self.assert_ended(done, "UNAVAILABLE", "no connection within 10 s")
        self.assertTrue(wire.aborted)

    def test_a_handshake_that_fails(self) -> None:
        done = self.call()
        wire = self.endpoint.accept()
        wire.protocol.connectionLost(Failure(ValueError("the target's certificate is not for a")))
        self.assert_ended(done, "UNAVAILABLE", "certificate is not for a")

    def test_a_target_without_http_2(self) -> None:
        done = self.call()
        wire = self.endpoint.accept()
        wire.negotiatedProtocol = b"http/1.1"
        wire.protocol.handshakeCompleted()
        self.assert_ended(done, "UNAVAILABLE", "does not speak HTTP/2 over TLS")
        self.assertTrue(wire.aborted)
