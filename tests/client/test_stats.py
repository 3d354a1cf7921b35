"""What statistics plug-ins are told of a client (client-core section 11)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass

from fleetspeak.client.services.noop import NoopFactory
from fleetspeak.client.stats import Stats
from fleetspeak.interfaces import IClientStats
from fleetspeak.pb import common
from fleetspeak.testing.clientside import RecordingStats
from tests.client.wholeclient import WholeClientCase

PLUGIN = """
import sys
from twisted.plugin import IPlugin
from zope.interface import implementer
from fleetspeak.client.stats import Stats
from fleetspeak.interfaces import IClientStats

@implementer(IPlugin, IClientStats)
class Printing(Stats):
    def key_loaded(self, client_id, new, error):
        print("key loaded", len(client_id), new, error)
    def contact_created(self, contact, error):
        print("contact created", len(contact.contact_data) > 0, error)

printing = Printing()
"""

PROGRAM = """
from twisted.internet.task import Clock
from fleetspeak.client.assembly import build_client
from fleetspeak.testing.clientside import FakeCommunicatorFactory, RecordingEnding, client_settings

communicators = FakeCommunicatorFactory()
client = build_client(client_settings(), Clock(), RecordingEnding(), communicator=communicators)
client.startService()
communicators.communicator.exchange()
"""


class HookTests(WholeClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.stats = RecordingStats()
        self.install("A")

    def test_item_29_one_exchange_is_one_contact_each_way_and_a_message_is_told_once(self) -> None:
        (self.folder / "textservices" / "NOOPService").write_text('name: "NOOPService" factory: "NOOP"')
        self.factories["NOOP"] = NoopFactory()
        self.start(stats=[self.stats])
        message = self.message("NOOPService", 1, "TestMessage")
        self.server.exchange(message)
        self.assertEqual(self.stats.calls("message_processed"), [(message, True, None)])
        ((created, created_error),) = self.stats.calls("contact_created")
        self.assertEqual(created.client_labels, ["amd64", "linux"])
        sent = common.ContactData.FromString(created.contact_data)
        self.assertEqual([one.message_type for one in sent.messages], ["ClientInfo"])
        ((processed, streaming, processed_error),) = self.stats.calls("contact_processed")
        self.assertEqual(list(processed.messages), [message])
        self.assertEqual((created_error, processed_error, streaming), (None, None, False))

    def test_a_streaming_client_says_so(self) -> None:
        self.settings["streaming"] = True
        self.start(stats=[self.stats])
        self.server.exchange()
        self.assertEqual([call[1] for call in self.stats.calls("contact_processed")], [True])

    def test_what_services_send_is_told_with_where_it_went(self) -> None:
        self.start(stats=[self.stats])
        context = self.puppet("A").context
        to_server = common.Message(destination=common.Address(service_name="Server"))
        to_self = common.Message(destination=common.Address(service_name="A", client_id=self.client_id))
        nowhere = common.Message()
        for message in (to_server, to_self):
            self.successResultOf(context.send(message))
        self.failureResultOf(context.send(nowhere), ValueError)
        outgoing, local, failed = self.stats.calls("message_processed")
        self.assertEqual((outgoing, local), ((to_server, False, None), (to_self, True, None)))
        self.assertEqual(failed[:2], (nowhere, False))
        self.assertIn("destination must have ServiceName", str(failed[2]))

    def test_what_the_server_sends_in_vain_is_told_with_the_reason(self) -> None:
        self.start(stats=[self.stats])
        bad_id = self.message("A", 1)
        bad_id.message_id = b"1"
        self.server.exchange(self.message("Gone", 2), bad_id, *(self.message("A", n, "hang") for n in range(150)))
        errors = [str(error) for _, _, error in self.stats.calls("message_processed") if error]
        self.assertEqual(errors[:2], ["no service 'Gone' on this client", "its id has 1 bytes, not 32"])
        self.assertEqual(set(errors[2:]), {"the server sent more than it was granted"})

    def test_a_plug_in_that_fails_does_no_harm(self) -> None:
        class Failing(RecordingStats):
            def contact_created(self, *arguments: object) -> None:
                raise RuntimeError("full")

        self.start(stats=[Failing(), self.stats])
        self.server.exchange()
        self.assertEqual(len(self.stats.calls("contact_created")), 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class PlugInTests(SynchronousTestCase):
    def test_what_passes_on_and_what_records_keep_the_interface(self) -> None:
        verifyClass(IClientStats, Stats)
        for hook in IClientStats:
            getattr(RecordingStats(), hook)
        self.assertRaises(AttributeError, getattr, RecordingStats(), "no_such_hook")

    def test_a_package_of_somebody_else_hears_of_a_client(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        plugins = Path(folder.name) / "fleetspeak" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "printing.py").write_text(PLUGIN)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": folder.name},
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(done.stdout.splitlines(), ["key loaded 8 True None", "contact created True None"])
