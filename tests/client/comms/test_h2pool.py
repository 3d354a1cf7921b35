"""Which connection a request gets, and what is used where HTTP/2 is not installed."""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.comms.h2connection import PARTING, H2Connection
from fleetspeak.client.comms.h2pool import AGAIN_AFTER, Http2
from fleetspeak.client.comms.http import Transport
from fleetspeak.client.comms.servers import Server
from fleetspeak.pb import client
from fleetspeak.testing.clientside import FakeLink, client_settings
from tests.client.comms.test_h2connection import Wire
from tests.wire.test_h2frames import goaway

SERVER = Server("server", 443)


class Dialing:
    """Stands in for `Endpoints`; the test makes each connection."""

    def __init__(self) -> None:
        self.attempts: list[tuple[Deferred[Any], Any]] = []
        self.cancelled = 0

    def to(self, host: str, port: int) -> Dialing:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        connecting: Deferred[Any] = Deferred(self._cancel)
        self.attempts.append((connecting, factory))
        return connecting

    def _cancel(self, connecting: Deferred[Any]) -> None:
        self.cancelled += 1

    def succeed(self, protocol: bytes | None = b"h2") -> H2Connection:
        connecting, factory = self.attempts.pop(0)
        wire = Wire()
        wire.negotiatedProtocol = protocol
        connection: H2Connection = factory.buildProtocol(None)
        connection.makeConnection(wire)
        connecting.callback(connection)
        return connection


class PoolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.dialing = Clock(), Dialing()
        self.pool = Http2(self.dialing, self.clock)  # type: ignore[arg-type]

    def test_requests_share_a_connection_that_is_being_made_and_one_that_is(self) -> None:
        first, second = self.pool.connection(SERVER), self.pool.connection(SERVER)
        connection = self.dialing.succeed()
        self.assertIs(self.successResultOf(first), connection)
        self.assertIs(self.successResultOf(second), connection)
        self.assertIs(self.successResultOf(self.pool.connection(SERVER)), connection)
        self.assertEqual(self.dialing.attempts, [])

    def test_servers_have_connections_of_their_own(self) -> None:
        self.pool.connection(SERVER)
        self.pool.connection(Server("other", 443))
        self.assertEqual(len(self.dialing.attempts), 2)

    def test_a_connection_that_takes_no_more_is_replaced(self) -> None:
        self.pool.connection(SERVER)
        self.dialing.succeed().dataReceived(goaway(0, 0))
        self.assertNoResult(self.pool.connection(SERVER))
        self.assertEqual(len(self.dialing.attempts), 1)

    def test_a_server_that_speaks_http1_is_asked_again_after_an_hour(self) -> None:
        asked = self.pool.connection(SERVER)
        self.dialing.succeed(None)
        self.assertIsNone(self.successResultOf(asked))
        self.clock.advance(AGAIN_AFTER - 1)
        self.assertIsNone(self.successResultOf(self.pool.connection(SERVER)))
        self.clock.advance(1)
        self.assertNoResult(self.pool.connection(SERVER))

    def test_a_server_that_chooses_http2_and_does_not_speak_it_is_spoken_to_in_http1(self) -> None:
        self.pool.connection(SERVER)
        connection = self.dialing.succeed()
        connection.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.connectionLost()
        self.assertIsNone(self.successResultOf(self.pool.connection(SERVER)))

    def test_an_error_is_everybodys_and_then_it_is_tried_again(self) -> None:
        waiting = [self.pool.connection(SERVER) for _ in range(2)]
        self.dialing.attempts.pop()[0].errback(Failure(OSError("no")))
        for each in waiting:
            self.failureResultOf(each, OSError)
        self.pool.connection(SERVER)
        self.assertEqual(len(self.dialing.attempts), 1)

    def test_whoever_gives_up_does_not_find_the_same_attempt_again(self) -> None:
        """client-tests 53: a reset during a hanging dial leads to a new one, also if a file waits for the first."""
        poll, file = self.pool.connection(SERVER), self.pool.connection(SERVER)
        poll.cancel()
        self.failureResultOf(poll, CancelledError)
        again = self.pool.connection(SERVER)
        self.assertEqual((len(self.dialing.attempts), self.dialing.cancelled), (2, 0))
        file.cancel()
        self.failureResultOf(file, CancelledError)
        self.assertEqual(self.dialing.cancelled, 1)
        self.dialing.attempts.pop(0)
        connection = self.dialing.succeed()
        self.assertIs(self.successResultOf(again), connection)

    def test_a_close_closes_what_is_open_and_cancels_what_is_being_made(self) -> None:
        self.pool.connection(SERVER)
        connection = self.dialing.succeed()
        waiting = self.pool.connection(Server("other", 443))
        closed = Deferred.fromCoroutine(self.pool.close())
        self.failureResultOf(waiting, CancelledError)
        self.assertNoResult(closed)
        self.clock.advance(PARTING)
        self.assertTrue(connection.transport.aborted)  # type: ignore[union-attr]
        connection.connectionLost()
        self.successResultOf(closed)


class NotInstalledTests(SynchronousTestCase):
    def transport(self, *, prefer: bool) -> list[Any]:
        preferred = client_settings(communicator=client.CommunicatorConfig(prefer_http2=prefer))
        with capturedLogs() as logs:
            self.made = Transport(FakeLink(), preferred, Clock())
        return list(logs)

    def test_a_warning_says_what_to_install_and_http1_is_used(self) -> None:
        ours = [name for name in sys.modules if name.startswith("fleetspeak.client.comms.h2")]
        without = dict.fromkeys(["h2", "h2.config", "h2.connection", *ours])
        with patch.dict(sys.modules, without):  # None: the import fails as if there were no such package
            [event] = self.transport(prefer=True)
        self.assertIn("pip install 'fleetspeak-twisted[http2]'", event["log_format"])
        self.assertIsNone(self.made._http2)

    def test_whoever_does_not_want_it_hears_nothing(self) -> None:
        self.assertEqual(self.transport(prefer=False), [])
        self.assertIsNone(self.made._http2)
