"""``fleetspeak-admin``: the commands of upstream's tool, word for word (server-core.md 12.2)."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import grpc

from fleetspeak.cli.main import main
from fleetspeak.pb import admin

from .doubles import ToolTestCase, environment, refuse

ONE, TWO = "0000000000000001", "0000000000000002"


class ClientsTests(ToolTestCase):
    def fleet(self) -> admin.ListClientsResponse:
        made = admin.ListClientsResponse()
        for number, seconds, labels in ((2, 1_700_000_000, ("linux", "corp")), (1, 1_600_000_000, ())):
            client = made.clients.add(client_id=number.to_bytes(8, "big"), blacklisted=number == 1)
            client.last_contact_time.FromNanoseconds(seconds * 10**9 + 123_999_999)
            client.last_contact_address = "192.0.2.7:99"
            for label in labels:
                client.labels.add(service_name="client", label=label)
        return made

    def test_listclients(self) -> None:
        self.assertEqual(self.succeed("listclients"), "No clients found.\n")
        self.server.replies["ListClients"] = self.fleet()
        self.assertEqual(
            self.succeed("listclients", ONE, TWO),
            "Client ID:       Last Seen:              Labels:\n"
            "0000000000000001 12:26:40.123 2020.09.13 [] *blacklisted*\n"
            "0000000000000002 22:13:20.123 2023.11.14 [client:linux,client:corp]\n",
        )
        self.assertEqual(list(self.server.last.request.client_ids), [bytes.fromhex(ONE), bytes.fromhex(TWO)])

    def test_listclients_for_programs(self) -> None:
        self.server.replies["ListClients"] = self.fleet()
        lines = [json.loads(line) for line in self.succeed("listclients", "--json").splitlines()]
        self.assertEqual(
            lines[1],
            {
                "client_id": TWO,
                "last_contact": "2023-11-14T22:13:20.123999999Z",
                "address": "192.0.2.7:99",
                "streaming_to": "",
                "client_clock": None,
                "labels": ["client:linux", "client:corp"],
                "blacklisted": False,
            },
        )

    def test_listclients_for_people(self) -> None:
        self.server.replies["ListClients"] = self.fleet()
        table = self.succeed("listclients", terminal=True)
        self.assertRegex(table, f"{TWO} +2023-11-14 22:13:20.123Z +192.0.2.7:99 +client:linux, client:corp +no")

    def test_ids_that_cannot_be_read(self) -> None:
        err = self.fail_to("listclients", ONE, "zz")
        self.assertIn("Unable to convert [zz] (index 1) to client id: ClientID must be 16 characters\n", err)
        self.assertIn("16 hexadecimal digits", err)
        self.assertEqual(self.server.calls, [])

    def test_ids_with_a_prefix_and_in_upper_case(self) -> None:
        self.succeed("listclients", "0xABCDEF0102030405")
        self.assertEqual(list(self.server.last.request.client_ids), [bytes.fromhex("abcdef0102030405")])

    def test_an_id_of_the_servers_that_is_none_is_left_out(self) -> None:
        self.server.replies["ListClients"] = admin.ListClientsResponse(clients=[admin.Client(client_id=b"short")])
        outcome = self.run_tool("listclients")
        self.assertEqual((outcome.status, outcome.out), (0, "No clients found.\n"))
        self.assertIn("Ignoring invalid client id", outcome.err)

    def test_blacklistclients(self) -> None:
        self.assertEqual(self.succeed("blacklistclients", ONE, TWO), "")
        self.assertEqual([call.request.client_id.hex() for call in self.server.calls], [ONE, TWO])
        self.assertEqual(self.succeed("blacklistclients"), "")
        err = self.fail_to("blacklistclients", ONE, "0")
        self.assertIn('Unable to convert "0" (index 1) to client id', err)
        self.assertEqual(len(self.server.calls), 2)

    def test_a_refused_call(self) -> None:
        self.server.replies["BlacklistClient"] = refuse(grpc.StatusCode.INVALID_ARGUMENT, "two\nlines \x1b[31m")
        self.assertEqual(
            self.fail_to("blacklistclients", ONE),
            "fleetspeak-admin: BlacklistClient RPC failed: rpc error: code = InvalidArgument desc = two\n"
            "lines \\x1b[31m\n",
        )

    def test_what_clients_say_does_not_reach_the_terminal(self) -> None:
        fleet = self.fleet()
        fleet.clients[0].labels[0].label = "\x1b]0;title\x07\nred"
        self.server.replies["ListClients"] = fleet
        for terminal in (False, True):
            out = self.succeed("listclients", terminal=terminal)
            self.assertNotIn("\x1b]", out)
            self.assertIn("client:\\x1b]0;title\\x07\\nred", out)


class ContactsTests(ToolTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.history = admin.ListClientContactsResponse()
        for number in range(1, 4):
            contact = self.history.contacts.add(sent_nonce=number, received_nonce=number - 1)
            contact.observed_address = f"192.0.2.{number}:443"
            contact.timestamp.FromNanoseconds(1_700_000_000 * 10**9 + number)
        self.server.replies["ListClientContacts"] = self.history

    def test_listcontacts(self) -> None:
        head = "Found 3 contacts.\nTimestamp:              Observed IP:\n"
        lines = [f"22:13:20.000 2023.11.14 192.0.2.{number}:443\n" for number in (3, 2, 1)]
        for words in ((), ("0",), ("3",), ("-1",), ("99",)):
            self.assertEqual(self.succeed("listcontacts", ONE, *words), head + "".join(lines))
        self.server.replies.clear()
        self.assertEqual(self.succeed("listcontacts", ONE), "No contacts found.\n")

    def test_listcontacts_shows_no_more_than_asked_for(self) -> None:
        """server-core.md 14: upstream's prints one line too many."""
        self.assertEqual(self.succeed("listcontacts", ONE, "2").count("192.0.2."), 2)
        self.assertEqual(len(self.succeed("listcontacts", ONE, "2", "--json").splitlines()), 2)

    def test_a_limit_that_is_none(self) -> None:
        self.assertIn("Unable to parse x as a limit", self.fail_to("listcontacts", ONE, "x"))

    def test_analysehistory(self) -> None:
        told = (
            "Raw Summary:\n"
            "  First Recorded Contact: 2023-11-14 22:13:20.000000001 +0000 UTC\n"
            "  Last Recorded Contact: 2023-11-14 22:13:20.000000003 +0000 UTC\n"
            "  Contact Count: 3\n"
            "  Observed IP Count: 3\n"
            "  Split Points: {}\n"
            "  Splits: {}\n"
            "  Skips: {}\n"
        )
        self.assertEqual(self.succeed("analysehistory", ONE), told.format(0, 0, 0))
        self.history.contacts[2].received_nonce = 1
        self.assertEqual(
            self.succeed("analysehistory", ONE),
            told.format(1, 1, 1) + "This client appears to have be restored 1 times from 1 different backup images.\n",
        )
        record = json.loads(self.succeed("analysehistory", ONE, "--json"))
        self.assertEqual((record["contacts"], record["addresses"], record["splits"]), (3, 3, 1))
        self.server.replies.clear()
        self.assertEqual(self.succeed("analysehistory", ONE), "No contacts found.\n")

    def test_analysehistory_of_a_clone(self) -> None:
        self.history.contacts[1].received_nonce = 0
        self.history.contacts[2].received_nonce = 1
        self.assertIn(
            "Observed 2 Skips, but only 1 splits. The machine may have been cloned.",
            self.succeed("analysehistory", ONE),
        )

    def test_analysehistory_of_what_cannot_be(self) -> None:
        self.history.contacts[2].sent_nonce = 1
        self.assertIn("Error creating summary: duplicate sent nonce: 1", self.fail_to("analysehistory", ONE))
        self.history.contacts[2].ClearField("timestamp")
        self.assertIn("Error creating summary: a contact has no time", self.fail_to("analysehistory", ONE))


class FilesTests(ToolTestCase):
    def test_storefile(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b"content")
        self.assertEqual(self.succeed("storefile", "svc", "name", str(path)), "Stored file svc/name to server.\n")
        request = self.server.last.request
        self.assertEqual((request.service_name, request.file_name, request.data), ("svc", "name", b"content"))

    def test_storefile_without_a_file(self) -> None:
        err = self.fail_to("storefile", "svc", "name", "/nowhere/to/be/found")
        self.assertIn("Failed to read file [/nowhere/to/be/found]: No such file", err)

    def test_deletefile(self) -> None:
        self.assertEqual(self.succeed("deletefile", "svc", "name"), "Deleted file svc/name from server.\n")


class BroadcastsTests(ToolTestCase):
    def test_listactivebroadcasts(self) -> None:
        self.assertEqual(self.succeed("listactivebroadcasts"), "No active broadcasts found.\n")
        reply = admin.ListActiveBroadcastsResponse()
        broadcast = reply.broadcasts.add(broadcast_id=bytes.fromhex(ONE), message_type="Greeting")
        broadcast.source.service_name = "greeter"
        self.server.replies["ListActiveBroadcasts"] = reply
        self.assertEqual(
            self.succeed("listactivebroadcasts", "greeter"),
            "Found 1 active broadcasts.\n"
            "Broadcast ID:        Source Service:      Message Type:\n"
            "0000000000000001     greeter              Greeting\n",
        )
        self.assertEqual(self.server.last.request.service_name, "greeter")

    def test_disablebroadcasts(self) -> None:
        self.assertEqual(
            self.succeed("disablebroadcasts", ONE, TWO), "Successfully sent disable request for 2 broadcasts.\n"
        )
        for text in ("", "nil", "01", "zzzzzzzzzzzzzzzz"):
            err = self.fail_to("disablebroadcasts", ONE, text)
            self.assertIn(f'Unable to convert "{text}" (index 1) to broadcast id', err)


class UsageTests(ToolTestCase):
    def test_no_command(self) -> None:
        self.assertTrue(self.fail_to().startswith("A command is required.\nUsage:\n    fleetspeak-admin listclients ["))

    def test_an_unknown_command(self) -> None:
        self.assertTrue(self.fail_to("foo").startswith("Unknown command: foo\nUsage:\n"))

    def test_a_wrong_number_of_arguments(self) -> None:
        for words in (
            ("listcontacts",),
            ("listcontacts", ONE, "1", "2"),
            ("analysehistory",),
            ("storefile", "a", "b"),
            ("deletefile", "a"),
            ("listactivebroadcasts", "a", "b"),
            ("disablebroadcasts",),
        ):
            self.assertTrue(self.fail_to(*words).startswith("Usage:\n"), words)

    def test_an_unknown_flag(self) -> None:
        self.assertTrue(self.fail_to("-nonsense", "listclients", status=2).startswith("flag provided but not defined"))

    def test_flags_of_glog_are_taken(self) -> None:
        self.succeed("-logtostderr", "-v=2", "-log_dir", "/tmp", "listclients")

    def test_what_is_no_text(self) -> None:
        self.assertIn("is not UTF-8", self.fail_to("listactivebroadcasts", "\udcff"))

    def test_fleetspeak_admin_is_the_same(self) -> None:
        out = io.StringIO()
        with environment(), contextlib.redirect_stdout(out):
            end = self.assertRaises(SystemExit, main, ["admin", f"-admin_addr={self.server.address}", "listclients"])
        self.assertEqual((end.code, out.getvalue()), (0, "No clients found.\n"))

    def test_help(self) -> None:
        outcome = self.run_tool("-help")
        self.assertEqual(outcome.status, 0)
        for text in ("-admin_addr", "-tls_ca", "listclients [<client_id>...]"):
            self.assertIn(text, outcome.out)
