"""A whole client with a spool: what its services send survives it."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred

from fleetspeak.client.service import ClientService
from fleetspeak.client.spool.folder import SpoolFolder
from fleetspeak.client.spool.spool import Spool
from fleetspeak.core.spool import LARGEST_SEGMENT
from fleetspeak.pb import common
from fleetspeak.testing.spool import SameThread
from tests.client.wholeclient import WholeClientCase

TO_SERVER = common.Address(service_name="S")


class SpooledClient(WholeClientCase):
    def begin(self) -> ClientService:
        """Start a client with a spool; one that runs is as good as killed."""
        files = SpoolFolder(self.folder / "state.spool", LARGEST_SEGMENT)
        self.addCleanup(files.close)
        return self.start(spool=Spool(files, 16 << 20, SameThread(), self.clock))

    def say(self, label: str) -> Deferred[None]:
        return self.puppet("P").context.send(common.Message(message_type=label, destination=TO_SERVER))

    def types(self, contact: common.ContactData) -> list[str]:
        return [message.message_type for message in contact.messages]

    def test_messages_of_a_client_that_was_killed_go_out_with_the_next_ones_first_contact(self) -> None:
        self.install("P")
        self.begin()
        self.assertTrue(self.puppet("P").context.spooled)
        self.successResultOf(self.say("a"))
        self.successResultOf(self.say("b"))
        self.begin()
        sent = self.server.exchange()
        self.assertEqual(["ClientInfo", "a", "b"], [message.message_type for message in sent])
        self.assertEqual({self.client_id}, {message.source.client_id for message in sent})
        self.begin()
        self.assertEqual(["ClientInfo"], [message.message_type for message in self.server.exchange()])

    def test_after_a_rekey_they_go_out_with_the_new_source_and_the_old_source_message_id(self) -> None:
        self.install("P")
        self.begin()
        before = self.client_id
        self.say("a")
        (first,) = [message for message in self.server.exchange() if message.message_type == "a"]
        self.say("b")
        self.server.link.received(common.ContactData(messages=[self.message("system", 1, "RekeyRequest")]), first=True)
        self.assertNotEqual(before, self.client_id)
        self.say("c")
        sent = {message.message_type: message for message in self.server.exchange()}
        self.assertEqual(before, first.source.client_id)
        for label in "bc":
            self.assertEqual(self.client_id, sent[label].source.client_id)
            self.assertEqual(16, len(sent[label].source_message_id))

    def test_stop_tries_a_last_delivery_and_closes_the_spool(self) -> None:
        self.install("P")
        service = self.begin()
        self.server.exchange()
        self.say("a")
        self.successResultOf(service.stopService())
        self.assertIn("a", self.types(self.server.contacts[-1]))
        self.failureResultOf(self.say("b"), Exception)

    def test_the_spool_is_beside_the_state_file(self) -> None:
        from fleetspeak.client.assembly import spool_for
        from fleetspeak.testing.clientside import client_settings

        state = Path("/var/lib/fleetspeak/state")
        spool = spool_for(client_settings(state_file=state, spool_limit=1 << 20), self.clock)
        assert spool is not None
        self.assertEqual(Path("/var/lib/fleetspeak/state.spool"), spool._folder.path)
        self.assertIsNone(spool_for(client_settings(state_file=state), self.clock))
        self.assertIsNone(spool_for(client_settings(spool_limit=1 << 20), self.clock))
