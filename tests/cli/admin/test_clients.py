"""``fleetspeak-admin clients``, over the operators' API."""

from __future__ import annotations

import json
from unittest import mock

import grpc

from fleetspeak.pb import admin, operator

from . import doubles
from .doubles import ADMIN, FakeServer, ToolTestCase, refuse, run_tool

ONE = "0000000000000001"


def client(number: int) -> admin.Client:
    made = admin.Client(client_id=number.to_bytes(8, "big"), last_contact_address="192.0.2.7:99")
    made.last_contact_time.FromNanoseconds(1_700_000_000 * 10**9 + 250_000_000)
    made.labels.add(service_name="client", label="linux")
    return made


class ClientsTests(ToolTestCase):
    def fleet_of(self, size: int) -> None:
        """A fleet, served page by page."""
        everyone = [client(number) for number in range(size)]

        def page(request: operator.ListClientsRequest, context: object) -> operator.ListClientsResponse:
            start = int(request.page_token or 0)
            end = start + request.page_size
            return operator.ListClientsResponse(
                clients=everyone[start:end], next_page_token=str(end) if end < len(everyone) else ""
            )

        self.server.replies["ListClients"] = page

    def test_list_fetches_page_by_page(self) -> None:
        self.fleet_of(2500)
        lines = self.succeed("clients", "list", "--json").splitlines()
        self.assertEqual(len(lines), 2500)
        self.assertEqual(json.loads(lines[-1])["client_id"], f"{2499:016x}")
        self.assertEqual([call.request.page_size for call in self.server.calls], [1000, 1000, 1000])

    def test_list_fetches_no_more_than_its_limit(self) -> None:
        self.fleet_of(2500)
        for limit, sizes in ((1, [1]), (1000, [1000]), (1200, [1000, 200])):
            self.server.calls.clear()
            out = self.succeed("clients", "list", "--json", "--limit", str(limit))
            self.assertEqual(len(out.splitlines()), limit)
            self.assertEqual([call.request.page_size for call in self.server.calls], sizes)

    def test_a_terminal_is_shown_the_first_thousand(self) -> None:
        self.fleet_of(2500)
        out = self.succeed("clients", "list", terminal=True)
        self.assertIn(f"{999:016x}", out)
        self.assertNotIn(f"{1000:016x}", out)
        self.assertIn("these are the first 1000", out)
        self.assertEqual(len(self.server.calls), 2)

    def test_a_narrow_terminal(self) -> None:
        self.fleet_of(2)
        with mock.patch.object(doubles, "WIDTH", "40"):
            out = self.succeed("clients", "list", terminal=True)
        self.assertEqual(
            out.splitlines()[:7],
            [
                "Client ID     0000000000000000",
                "Last contact  2023-11-14 22:13:20.250Z",
                "Address       192.0.2.7:99",
                "Labels        client:linux",
                "Blacklisted   no",
                "",
                "Client ID     0000000000000001",
            ],
        )

    def test_a_terminal_without_rich(self) -> None:
        self.fleet_of(1)
        with mock.patch.dict("sys.modules", rich=None):
            out = self.succeed("clients", "list", terminal=True)
        self.assertEqual(
            out.splitlines(),
            [
                "Client ID         Last contact              Address       Labels        Blacklisted",
                "0000000000000000  2023-11-14 22:13:20.250Z  192.0.2.7:99  client:linux  no",
            ],
        )

    def test_a_server_that_repeats_itself_is_not_followed(self) -> None:
        self.server.replies["ListClients"] = operator.ListClientsResponse(next_page_token="again")
        self.assertIn("sends the same page again", self.run_tool("clients", "list").err)

    def test_plain_text(self) -> None:
        self.fleet_of(2)
        self.assertEqual(
            self.succeed("clients", "list").splitlines(),
            [
                "Client ID         Last contact              Address                Labels                Blacklisted",
                "0000000000000000  2023-11-14 22:13:20.250Z  192.0.2.7:99           client:linux          no",
                "0000000000000001  2023-11-14 22:13:20.250Z  192.0.2.7:99           client:linux          no",
            ],
        )
        self.fleet_of(0)
        self.assertEqual(self.succeed("clients", "list"), "No clients found.\n")

    def test_filters(self) -> None:
        self.succeed("clients", "list", "--label", "linux", "--label", "svc:a:b", "--blacklisted")
        request = self.server.last.request
        self.assertEqual(
            [(label.service_name, label.label) for label in request.labels], [("client", "linux"), ("svc:a", "b")]
        )
        self.assertEqual(request.blacklisted, operator.ListClientsRequest.ONLY)
        self.succeed("clients", "list", "--since", "2023-11-14T22:13:20Z", "--until", "2023-11-15", "--not-blacklisted")
        request = self.server.last.request
        self.assertEqual(request.blacklisted, operator.ListClientsRequest.NONE)
        self.assertEqual(request.last_contact.start.seconds, 1_700_000_000)
        self.assertEqual(request.last_contact.end.seconds, 1_700_006_400)
        self.assertIn("'yesterday' is no time\n  a time is 20", self.fail_to("clients", "list", "--since", "yesterday"))

    def test_contacts(self) -> None:
        contact = admin.ClientContact(sent_nonce=255, received_nonce=1, observed_address="192.0.2.7:99")
        contact.timestamp.seconds = 1_700_000_000
        self.server.replies["ListContacts"] = operator.ListContactsResponse(contacts=[contact])
        self.assertRegex(
            self.succeed("clients", "contacts", ONE),
            "2023-11-14 22:13:20.000Z  192.0.2.7:99 +00000000000000ff  0000000000000001\n",
        )
        self.assertEqual(self.server.last.request.client_id.hex(), ONE)

    def test_history(self) -> None:
        self.assertEqual(self.succeed("clients", "history", ONE), "No contacts found.\n")

    def test_blacklist_and_back(self) -> None:
        self.assertEqual(self.succeed("clients", "blacklist", ONE), "")
        self.assertEqual(self.server.last.method, "BlacklistClient")
        self.assertEqual(self.succeed("clients", "unblacklist", ONE, f"0x{ONE}"), "2 clients are not blacklisted.\n")
        self.assertEqual([one.hex() for one in self.server.last.request.client_ids], [ONE, ONE])
        self.assertIn("the empty client id", self.fail_to("clients", "unblacklist", "nil"))

    def test_usage(self) -> None:
        reply = admin.FetchClientResourceUsageRecordsResponse()
        record = reply.records.add(scope="system", pid=42, mean_user_cpu_rate=15.0, max_resident_memory_mib=30)
        record.server_timestamp.seconds = 1_700_000_000
        self.server.replies["FetchClientResourceUsageRecords"] = reply
        out = self.succeed("clients", "usage", ONE, "--since", "2023-11-14", "--until", "2023-11-15")
        self.assertRegex(out, r"2023-11-14 22:13:20.000Z +system +42 +1\.5% +0\.0% +0 MiB +30 MiB +0\n")
        request = self.server.last.request
        self.assertEqual(request.end_timestamp.seconds - request.start_timestamp.seconds, 86400)

    def test_a_go_server(self) -> None:
        """It has upstream's API only; the error says what works instead."""
        server = FakeServer((ADMIN,))
        server.start()
        self.addCleanup(server.stop)
        for words, instead in (
            (("clients", "list"), "fleetspeak-admin listclients"),
            (("clients", "unblacklist", ONE), "goes on under its new id"),
            (("messages", "list"), "fleetspeak-admin messages pending"),
            (("broadcasts", "list"), "fleetspeak-admin listactivebroadcasts"),
            (("broadcasts", "pause", ONE), "fleetspeak-admin disablebroadcasts"),
            (("files", "list"), "does not tell which files"),
            (("files", "upload", "s", "f", __file__), "fleetspeak-admin storefile"),
            (("stats", "messages"), "fleetspeak-admin messages count"),
            (("stats", "clients"), "fleetspeak-admin listclients"),
            (("enrolment", "status"), "fleetspeak-admin listclients"),
            (("enrolment", "close"), "required_label"),
            (("audit", "list"), "keeps no audit trail"),
            (("whoami",), "knows nobody"),
            (("audit", "export"), "keeps no audit trail"),
        ):
            outcome = run_tool(f"-admin_addr={server.address}", *words)
            self.assertEqual(outcome.status, 1, words)
            self.assertIn("it is a Go server, or an older one", outcome.err, words)
            self.assertIn(instead, outcome.err, words)
        outcome = run_tool(f"-admin_addr={server.address}", "ping")
        self.assertIn("a Go server, or an older one of ours: upstream's commands work", outcome.out)

    def test_ping(self) -> None:
        self.assertRegex(self.succeed("ping"), rf"{self.server.address} answers in [0-9.]+ ms; ours\n")
        self.assertIs(json.loads(self.succeed("ping", "--json"))["operator"], True)
        self.server.replies["GetEnrolment"] = refuse(grpc.StatusCode.PERMISSION_DENIED, "no")
        self.assertIs(json.loads(self.succeed("ping", "--json"))["operator"], True)
