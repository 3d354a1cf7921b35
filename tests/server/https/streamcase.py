"""A test case with a server whose streams run in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.pb import common
from tests.server.contact.world import Gatekeeper, wrapped
from tests.server.https.wire import Connection, Server, stream_start


class StreamTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.gatekeeper = Gatekeeper()
        self.server = Server(self.gatekeeper)
        self.world = self.server.world
        self.clock = self.server.clock

    def start(self, first: common.WrappedContactData | None = None, name: str = "alice") -> Connection:
        """A stream that has had its first answer."""
        connection = self.server.connect(name)
        connection.begin_stream()
        connection.chunk(stream_start(first or wrapped()))
        return connection

    def messages(self, connection: Connection) -> list[str]:
        return [one.message_type for answer in connection.records() for one in answer.messages]
