"""What doc/operating.md says of fleetspeak-admin is so: each of its commands runs, on a real server."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.admin.command import GROUPS
from fleetspeak.pb import admin, operator
from fleetspeak.security import keys

from .case import RealServerCase
from .doubles import FakeServer, Outcome, run_tool

TOP = Path(__file__).resolve().parents[3]


def section() -> str:
    text = (TOP / "doc" / "operating.md").read_text()
    found = re.search(r"^## fleetspeak-admin\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def command_lines() -> list[str]:
    """Those in blocks of the section, without the program's name."""
    blocks = re.findall(r"^```\n(.*?)^```$", section(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).splitlines()
    return [line.removeprefix("fleetspeak-admin ") for line in lines if line.startswith("fleetspeak-admin ")]


def documented_fields() -> dict[str, list[str]]:
    """By command, from the table of the section."""
    fields = {}
    for commands, cell in re.findall(r"^\| (`[^|]*`) \| (`[^|]*?) \|$", section(), re.MULTILINE):
        cell = re.sub(r"\([^)]*\)", "", cell)
        for command in re.findall("`([^`<]*)`", commands):
            fields[command] = re.findall("`([a-z0-9_]+)`", cell)
    return fields


class CommandTests(RealServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.words = {"CLIENT_ID": self.client_id, "MESSAGE_ID": "", "BROADCAST_ID": ""}
        Path("tool.bin").write_bytes(b"x" * 5_000_000)  # more than one request takes
        Path("client.pem").write_bytes(_pem())

    def test_each_command_of_the_section(self) -> None:
        seen = set()
        for line in command_lines():
            words = [self.words.get(word, word) for word in shlex.split(line)]
            outcome = self.run_tool(*words)
            self.assertEqual((outcome.status, outcome.err), (0, ""), line)
            self.note_id(line, outcome)
            seen.add(next(word for word in words if not word.startswith("-")))
        self.assertEqual(seen | {name for name, group in GROUPS.items() if group.upstream}, set(GROUPS))

    def note_id(self, line: str, outcome: Outcome) -> None:
        """What is made is what the lines below it are about."""
        for name, making in (("MESSAGE_ID", "messages insert"), ("BROADCAST_ID", "broadcasts create")):
            if line.startswith(making):
                self.words[name] = outcome.out.strip()


def _pem() -> bytes:
    return (
        keys.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


class FieldTests(SynchronousTestCase):
    """The fields of JSON are those in the table."""

    CLIENT = "11" * 8
    COMMANDS = {
        "listclients": (),
        "clients list": (),
        "listcontacts": (CLIENT,),
        "clients contacts": (CLIENT,),
        "analysehistory": (CLIENT,),
        "clients history": (CLIENT,),
        "clients usage": (CLIENT,),
        "messages insert": ("--service", "s", "--from", "s"),
        "messages status": ("00" * 32,),
        "messages pending": (CLIENT,),
        "messages count": (CLIENT,),
        "messages list": (),
        "messages cancel": ("00" * 32,),
        "messages retry": ("00" * 32,),
        "messages delete-pending": (CLIENT,),
        "listactivebroadcasts": (),
        "broadcasts create": ("--from", "s"),
        "broadcasts list": (),
        "broadcasts pause": (CLIENT,),
        "broadcasts resume": (CLIENT,),
        "broadcasts disable": (CLIENT,),
        "disablebroadcasts": (CLIENT,),
        "blacklistclients": (CLIENT,),
        "clients blacklist": (CLIENT,),
        "clients unblacklist": (CLIENT,),
        "storefile": ("s", "f", __file__),
        "deletefile": ("s", "f"),
        "files delete": ("s", "f"),
        "files list": (),
        "files upload": ("s", "f", __file__),
        "stats messages": (),
        "stats clients": (),
        "enrolment status": (),
        "audit list": (),
        "audit export": (),
        "ping": (),
        "whoami": (),
    }

    def setUp(self) -> None:
        self.server = FakeServer()
        self.server.start()
        self.addCleanup(self.server.stop)
        contacts = admin.ListClientContactsResponse()
        contacts.contacts.add().timestamp.seconds = 1
        self.server.replies.update(
            ListClientContacts=contacts,
            ListContacts=operator.ListContactsResponse(contacts=contacts.contacts),
            FetchClientResourceUsageRecords=admin.FetchClientResourceUsageRecordsResponse(records=[{}]),
            GetPendingMessages=admin.GetPendingMessagesResponse(messages=[{}]),
            ListMessages=operator.ListMessagesResponse(messages=[{}]),
            ListActiveBroadcasts=admin.ListActiveBroadcastsResponse(broadcasts=[{"broadcast_id": bytes(8)}]),
            ListBroadcasts=operator.ListBroadcastsResponse(broadcasts=[{}]),
            ListFiles=operator.ListFilesResponse(files=[{}]),
            CountMessages=operator.CountMessagesResponse(counts=[{}]),
            ListAuditEntries=operator.ListAuditEntriesResponse(entries=[{}]),
            ExportAuditEntries=[operator.AuditEntry()],
        )

    def fields(self, *words: str) -> list[str]:
        # Both APIs have a ListClients.
        path = "Operator" if words[0] == "clients" else "Admin"
        made = operator.ListClientsResponse if path == "Operator" else admin.ListClientsResponse
        self.server.replies["ListClients"] = made(clients=[{"client_id": bytes(8)}])
        outcome = run_tool(f"-admin_addr={self.server.address}", "--json", *words)
        self.assertEqual((outcome.status, outcome.err), (0, ""), words)
        return list(json.loads(outcome.out.splitlines()[0]))

    def test_fields(self) -> None:
        documented = documented_fields()
        for command, arguments in self.COMMANDS.items():
            words = [*command.split(), *arguments]
            self.assertEqual(sorted(self.fields(*words)), sorted(documented[command]), command)
