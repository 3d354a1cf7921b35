"""Several server processes on one machine that clients reach on one port."""

from __future__ import annotations

from contextlib import ExitStack
from unittest import TestCase

from fleetspeak.pb import components
from fleetspeak.testing.wireclient import Identity
from tests.mariadb import the_server
from tests.programs import eventually
from tests.sharing import Sharing, message_for, next_text

STREAMS = 24
"""So many that each process has some: all at one of them would come once in eight million times."""


class SharedPortTests(TestCase):
    def setUp(self) -> None:
        database = the_server().new_database()
        self.addCleanup(database.drop)
        self.sharing = Sharing(database)
        self.addCleanup(self.sharing.clean_up)
        self.one, self.other = self.sharing.servers
        port = self.other.https_port = self.one.https_port

        def share(config: components.Config) -> None:
            config.https_config.listen_address = f"127.0.0.1:{port}"

        self.other.process.reconfigure(share)
        for server in (self.one, self.other):
            server.process.options = ["--share-port"]
            server.process.start()
        self.database = database

    def holders(self) -> set[object]:
        rows = self.database.query("SELECT DISTINCT last_contact_streaming_to FROM clients")
        return {holder for (holder,) in rows}

    def test_the_kernel_spreads_clients_and_messages_find_them(self) -> None:
        """What is inserted at one process is at once at a stream of the other; one that is killed is not missed."""
        identities = [Identity.make() for _ in range(STREAMS)]
        with ExitStack() as stack:
            streams = [stack.enter_context(self.one.stream(identity)) for identity in identities]
            both = {self.one.notification_address, self.other.notification_address}
            eventually(lambda: self.holders() == both, "both have streams")
            for number, (identity, stream) in enumerate(zip(identities, streams, strict=True)):
                self.one.admin().InsertMessage(message_for(identity, f"message {number}"), timeout=30)
                self.assertEqual(next_text(stream, 15), f"message {number}")
        self.other.process.program.kill()
        for identity in identities:
            with self.one.stream(identity):
                pass
