"""Our client on our server's frontend, which ends each stream soon."""

from __future__ import annotations

import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import TestCase

from fleetspeak.client.comms.streaming import StreamingCommunicator
from fleetspeak.config.server import ServerSettings
from fleetspeak.pb import client
from fleetspeak.security import certificates
from fleetspeak.server.authorizers import AllowAll
from fleetspeak.server.https.context import StreamTimes
from fleetspeak.server.https.frontend import HttpsFrontend
from fleetspeak.testing.clientside import FakeLink, client_settings
from tests.server.contact.world import World, from_client

MESSAGES = 150


class ShortStreamsTests(TestCase):
    timeout = 60

    async def test_item_77_everything_arrives_exactly_once(self) -> None:
        """A tenth of the specification's times: a lifespan of 1 s, of which 0.7 s are the close time."""
        now = time.time()
        authority, authority_key = certificates.make_authority("test", now)
        certificate, key = certificates.issue_server(authority, authority_key, "test", ["127.0.0.1"], now)
        world, link = World(), FakeLink()
        frontend = HttpsFrontend(
            world.contacts,
            AllowAll(),
            ServerSettings(
                database_path=Path("unused"),
                https_address=("127.0.0.1", 0),
                certificate_chain=certificates.to_pem(certificate),
                key=certificates.key_to_pem(key),
            ),
            reactor,
            times=StreamTimes(lifespan=1.0, close_time=0.7, jitter=0.0),
        )
        port: int = (await frontend.open()).port  # type: ignore[attr-defined]
        self.addCleanup(frontend.drain_and_close)
        communicator = StreamingCommunicator(
            link,
            client_settings(
                servers=(("127.0.0.1", port),),
                trusted_certs=(authority,),
                communicator=client.CommunicatorConfig(min_failure_delay_seconds=1, failure_suicide_time_seconds=600),
            ),
            reactor,
            uniform=lambda: 0.1,
        )
        communicator.start()
        acked: list[bytes] = []
        all_acked: Deferred[None] = Deferred()
        numbers = iter(range(MESSAGES))

        def on_ack(sent: bytes) -> None:
            acked.append(sent)
            if len(acked) == MESSAGES:
                all_acked.callback(None)

        def send() -> None:
            number = next(numbers, None)
            if number is None:
                sending.stop()
                return
            message = from_client(number)
            message.source.client_id = link.identity.client_id
            link.outbox.submit(message, lambda sent=message.source_message_id: on_ack(sent))  # type: ignore[misc]

        sending = LoopingCall(send)
        await sending.start(0.02)
        await all_acked
        await Deferred.fromCoroutine(communicator.stop())
        self.assertGreater(len(link.servers), 3, "streams")
        expected = sorted(from_client(number).source_message_id for number in range(MESSAGES))
        self.assertEqual(sorted(message.source_message_id for message in world.ingestor.seen), expected)
        self.assertEqual(sorted(acked), expected)
