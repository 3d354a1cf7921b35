"""Our fleetspeak-admin and upstream's side by side: word for word the same (server-core.md 12.2)."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import TestCase

import grpc

from fleetspeak import rpc
from fleetspeak.ids import show
from fleetspeak.pb import admin, common
from fleetspeak.records import UNLIMITED
from fleetspeak.testing.wireclient import Connection, Identity
from tests.cli.admin.doubles import ADMIN, FakeServer, run_tool
from tests.programs import PATIENCE

from .fleet import OURS, UPSTREAM, Deployment, Kind, Server

NOBODY = "00000000000000ff"


class SideBySide(TestCase):
    """Both tools, run as users run them."""

    address: str

    def run_kind(self, kind: Kind, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [kind.program("fleetspeak-admin"), f"-admin_addr={self.address}", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        )

    def assert_same(self, *words: str) -> str:
        """Both print the same and end alike; returns what they print."""
        theirs, ours = self.run_kind(UPSTREAM, *words), self.run_kind(OURS, *words)
        self.assertEqual((ours.returncode, ours.stdout), (theirs.returncode, theirs.stdout), (words, ours, theirs))
        self.assertEqual(bool(ours.stderr), bool(theirs.stderr))
        if ours.returncode:
            # Upstream's errors begin with the head of a line of glog.
            problem = ours.stderr.splitlines()[0].removeprefix("fleetspeak-admin: ")
            self.assertIn(problem, theirs.stderr)
        return ours.stdout


class ServerCase(SideBySide):
    """Against a server that has clients, contacts, broadcasts and files."""

    __test__ = False
    kind: Kind

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="fleetspeak-admin-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        deployment = Deployment(folder / "deployment", OURS)
        self.server = Server(self.kind, deployment, "server", {})
        self.addCleanup(self.server.clean_up)
        self.server.start()
        self.deployment = deployment
        self.address = deployment.admin_address
        self.folder = folder

    def contact(self, identity: Identity, nonce: int, *labels: str) -> int:
        with Connection(self.deployment.https_address, self.deployment.trusted_pem, identity) as connection:
            contact = common.ContactData(sequencing_nonce=nonce)
            return connection.poll(contact, labels).sequencing_nonce

    def test_all_commands(self) -> None:
        self.assertEqual(self.assert_same("listclients"), "No clients found.\n")
        self.assertEqual(self.assert_same("listcontacts", NOBODY), "No contacts found.\n")
        self.assertEqual(self.assert_same("analysehistory", NOBODY), "No contacts found.\n")
        first, second = Identity.make(), Identity.make()
        given = self.contact(first, 0, "linux", "corp")
        self.contact(second, 0)
        self.contact(first, given)
        self.contact(first, given)  # as after a restore from a backup
        one, two = (show(identity.client_id) for identity in (first, second))
        self.assertIn("client:linux", self.assert_same("listclients"))
        self.assert_same("listclients", one, NOBODY)
        self.assert_same("listclients", "zz")
        self.assertIn("Found 3 contacts.", self.assert_same("listcontacts", one))
        self.assert_same("listcontacts", one, "3")
        self.assert_same("listcontacts", one, "x")
        self.assertIn("restored 1 times from 1", self.assert_same("analysehistory", one))
        self.assert_same("blacklistclients", two)
        self.assertIn("*blacklisted*", self.assert_same("listclients"))
        self.assert_same("blacklistclients", one, "zz")
        self.broadcasts()
        self.files()
        self.commands_that_upstreams_tool_lacks(one)
        for words in ((), ("foo",), ("listcontacts",), ("storefile", "a"), ("disablebroadcasts",)):
            self.assert_misused_alike(*words)

    def broadcasts(self) -> None:
        self.assertEqual(self.assert_same("listactivebroadcasts"), "No active broadcasts found.\n")
        request = admin.CreateBroadcastRequest(limit=UNLIMITED)
        request.broadcast.broadcast_id = bytes.fromhex("0123456789abcdef")
        request.broadcast.source.service_name = "greeter"
        request.broadcast.message_type = "Greeting"
        with grpc.insecure_channel(self.address) as channel:
            rpc.admin.AdminStub(channel).CreateBroadcast(request, timeout=PATIENCE)
        self.assertIn("0123456789abcdef", self.assert_same("listactivebroadcasts"))
        self.assert_same("listactivebroadcasts", "greeter")
        self.assertEqual(self.assert_same("listactivebroadcasts", "other"), "No active broadcasts found.\n")
        self.assert_same("disablebroadcasts", "0123456789abcdef")
        self.assert_same("disablebroadcasts", "zz")
        self.assertEqual(self.assert_same("listactivebroadcasts"), "No active broadcasts found.\n")

    def commands_that_upstreams_tool_lacks(self, client_id: str) -> None:
        """As doc/operating.md says, these need no more than upstream's API."""

        def succeed(*words: str) -> str:
            outcome = run_tool(f"-admin_addr={self.address}", *words)
            self.assertEqual((outcome.status, outcome.err), (0, ""), words)
            return outcome.out.strip()

        payload = ("--data-type", "google.protobuf.StringValue", "--data", 'value: "hi"')
        words = ("--client", client_id, "--service", "hello", "--from", "greeter", "--type", "Greeting")
        message_id = succeed("messages", "insert", *words, *payload)
        self.assertEqual(json.loads(succeed("messages", "status", message_id, "--json"))["state"], "pending")
        pending = json.loads(succeed("messages", "pending", client_id, "--data", "--json"))
        self.assertEqual((pending["message_id"], pending["data"]), (message_id, "0a026869"))
        self.assertEqual(succeed("messages", "count", client_id), "1")
        succeed("messages", "delete-pending", client_id)
        self.assertEqual(succeed("messages", "count", client_id), "0")
        # Upstream's server does not tell that it failed (server-core.md 14).
        ended = json.loads(succeed("messages", "status", message_id, "--json"))["state"]
        self.assertEqual(ended, "processed" if self.kind is UPSTREAM else "failed")
        broadcast_id = succeed("broadcasts", "create", "--from", "greeter", "--label", "none", "--expires", "1d")
        self.assertIn(broadcast_id, succeed("listactivebroadcasts"))
        succeed("broadcasts", "disable", broadcast_id)
        self.assertIn("splits", json.loads(succeed("clients", "history", client_id, "--json")))
        succeed("clients", "blacklist", NOBODY)
        self.assertEqual(succeed("clients", "usage", client_id), "No reports found.")
        succeed("files", "delete", "svc", "name")
        self.assertIn("a Go server" if self.kind is UPSTREAM else "ours", succeed("ping"))
        listed = run_tool(f"-admin_addr={self.address}", "clients", "list")
        if self.kind is UPSTREAM:
            self.assertIn("`fleetspeak-admin listclients` lists all clients", listed.err)
        else:
            self.assertIn(client_id, listed.out)

    def files(self) -> None:
        path = self.folder / "file"
        path.write_bytes(b"content")
        self.assert_same("storefile", "svc", "name", str(path))
        self.assert_same("deletefile", "svc", "name")
        self.assert_same("deletefile", "svc", "name")
        self.assertEqual(self.run_kind(OURS, "storefile", "", "name", str(path)).returncode, 1)

    def assert_misused_alike(self, *words: str) -> None:
        """Ours tells of more commands, below what upstream's tells."""
        theirs, ours = self.run_kind(UPSTREAM, *words), self.run_kind(OURS, *words)
        self.assertEqual((ours.returncode, ours.stdout), (theirs.returncode, theirs.stdout))
        self.assertTrue(ours.stderr.startswith(theirs.stderr), (ours, theirs))


class OurServerTests(ServerCase):
    __test__ = True
    kind = OURS


class UpstreamServerTests(ServerCase):
    __test__ = True
    kind = UPSTREAM


class HistoryTests(SideBySide):
    """Histories that no server of a test would have."""

    def setUp(self) -> None:
        self.server = FakeServer((ADMIN,))
        self.server.start()
        self.addCleanup(self.server.stop)
        self.address = self.server.address

    def compare(self, history: admin.ListClientContactsResponse) -> None:
        self.server.replies["ListClientContacts"] = history
        theirs = self.run_kind(UPSTREAM, "analysehistory", NOBODY)
        ours = run_tool(f"-admin_addr={self.address}", "analysehistory", NOBODY)
        self.assertEqual((ours.status, ours.out), (theirs.returncode, theirs.stdout), (history, theirs.stderr))

    def test_at_random(self) -> None:
        random_numbers = random.Random(4)
        for _ in range(40):
            self.compare(self.history(random_numbers))

    def history(self, random_numbers: random.Random) -> admin.ListClientContactsResponse:
        made = admin.ListClientContactsResponse()
        times = random_numbers.sample(range(60), random_numbers.randint(1, 8))
        for number, time in enumerate(sorted(times), 1):
            sent = number if random_numbers.random() < 0.97 else random_numbers.randint(0, 9)
            received = random_numbers.choice([number - 1, number - 1, random_numbers.randint(0, number), 99])
            contact = made.contacts.add(sent_nonce=sent, received_nonce=received)
            contact.observed_address = random_numbers.choice(ADDRESSES)
            contact.timestamp.FromNanoseconds(1_700_000_000 * 10**9 + time * 125_000_000)
        mixed = random_numbers.sample(list(made.contacts), len(made.contacts))
        return admin.ListClientContactsResponse(contacts=mixed)

    def test_addresses(self) -> None:
        for address in ADDRESSES:
            history = admin.ListClientContactsResponse()
            history.contacts.add(sent_nonce=1, observed_address=address).timestamp.seconds = 5
            self.compare(history)

    def test_a_nonce_of_0(self) -> None:
        for sent, received in ((0, 0), (0, 5), (1, 0)):
            history = admin.ListClientContactsResponse()
            history.contacts.add(sent_nonce=sent, received_nonce=received).timestamp.seconds = 5
            history.contacts.add(sent_nonce=7, received_nonce=0).timestamp.seconds = 6
            self.compare(history)


ADDRESSES = (
    "192.0.2.1:1",
    "192.0.2.1:2",
    "192.0.2.2:1",
    "[2001:db8::1]:1",
    "[2001:db8::1%eth0]:1",
    "2001:db8::1",
    "[2001:db8::1]",
    "[2001:db8::1]1",
    "[2001:db8::1]:1:2",
    "[2001:db8::1",
    "a]:1",
    "a[:1",
    "name.example:443",
    "192.0.2.1:http",
    "192.0.2.1:",
    ":1",
    ":",
    "",
    "[]:1",
    "[[]]:1",
    "garbage",
    "local",
)
