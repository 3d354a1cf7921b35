"""The commands do to a real server of ours what they say."""

from __future__ import annotations

from pathlib import Path

from fleetspeak.testing.wireclient import Identity, RefusedError
from tests.programs import eventually

from .case import RealServerCase


class RealServerTests(RealServerCase):
    def insert(self) -> str:
        words = ("--client", self.client_id, "--service", "hello", "--from", "greeter", "--type", "Greeting")
        return self.succeed("messages", "insert", *words)

    def states(self, *words: str) -> dict[str, str]:
        return {row["message_id"]: row["state"] for row in self.rows("messages", "list", *words)}

    def test_messages(self) -> None:
        first, second = self.insert(), self.insert()
        self.assertEqual(self.states(), {first: "waiting", second: "waiting"})
        self.assertEqual(
            self.succeed("messages", "cancel", first, "--reason", "a mistake"), "Cancelled 1 of 1 messages."
        )
        self.assertEqual(self.states("--state", "failed"), {first: "failed"})
        [status] = self.rows("messages", "status", first)
        self.assertEqual((status["state"], status["reason"]), ("failed", "a mistake"))
        delivered = self.contact(self.identity).messages
        self.assertEqual([message.message_id.hex() for message in delivered if message.message_type], [second])
        self.assertEqual(self.states("--state", "sent", "--client", self.client_id), {second: "sent"})
        counts = {
            row["state"]: row["count"]
            for row in self.rows("stats", "messages", "--type", "Greeting")
            if row["to_client"]
        }
        self.assertEqual(counts, {"failed": 1, "sent": 1})
        self.assertEqual(self.rows("stats", "messages", "--until", "1h"), [])
        self.assertEqual(self.succeed("messages", "retry", "--all"), "0 messages are due again.")

    def test_broadcasts(self) -> None:
        broadcast_id = self.succeed(
            "broadcasts", "create", "--from", "greeter", "--label", "linux", "--max-errors", "2"
        )

        def state() -> str:
            [row] = self.rows("broadcasts", "list")
            self.assertEqual(
                (row["broadcast_id"], row["labels"], row["max_errors"]), (broadcast_id, ["client:linux"], 2)
            )
            return str(row["state"])

        self.assertEqual(state(), "active")
        for command, expected in (("pause", "paused"), ("resume", "active"), ("disable", "disabled")):
            self.succeed("broadcasts", command, broadcast_id)
            self.assertEqual(state(), expected)

    def test_blacklisting(self) -> None:
        self.succeed("clients", "blacklist", self.client_id)
        self.assertEqual([row["client_id"] for row in self.rows("clients", "list", "--blacklisted")], [self.client_id])
        self.succeed("clients", "unblacklist", self.client_id)
        self.assertEqual(self.rows("clients", "list", "--blacklisted"), [])
        self.assertEqual(len(self.rows("clients", "list", "--label", "linux", "--since", "1h")), 1)
        self.assertEqual(self.rows("clients", "list", "--until", "1h"), [])

    def test_enrolment(self) -> None:
        self.succeed("enrolment", "close")
        stranger = Identity.make()

        def refused(identity: Identity) -> bool:
            try:
                self.contact(identity)
            except RefusedError:
                return True
            return False

        # It counts within seconds.
        eventually(lambda: refused(Identity.make()), "new clients are refused")
        self.assertRaises(RefusedError, self.contact, stranger)
        self.contact(self.identity)
        Path("stranger.pem").write_text(stranger.certificate_and_key)
        self.assertEqual(self.succeed("enrolment", "enrol", "stranger.pem"), stranger.client_id.hex())
        eventually(lambda: not refused(stranger), "it is let in")
        self.assertEqual(self.rows("enrolment", "status")[0]["enrolment"], "closed")
        self.succeed("enrolment", "open")
        eventually(lambda: not refused(Identity.make()), "new clients are taken again")

    def test_files(self) -> None:
        content = bytes(range(256)) * 24_000  # 6 MB, more than one request of StoreFile takes
        Path("tool.bin").write_bytes(content)
        [stored] = self.rows("files", "upload", "hello", "tool.bin", "tool.bin")
        self.assertEqual(stored["size"], len(content))
        self.assertEqual([row["file"] for row in self.rows("files", "list", "hello")], ["tool.bin"])
        with self.connect(self.identity) as connection:
            response = connection.request("GET", "/files/hello/tool.bin", b"")
        self.assertEqual((response.status, response.body == content), (200, True))
        self.succeed("files", "delete", "hello", "tool.bin")
        self.assertEqual(self.rows("files", "list"), [])

    def test_the_trail_has_what_was_done(self) -> None:
        message_id = self.insert()
        [entry] = self.rows("audit", "list", "--method", "fleetspeak.server.Admin/InsertMessage")
        self.assertEqual((entry["caller"], entry["outcome"]), ("anonymous", "OK"))
        self.assertIn(message_id, entry["request"])
        exported = self.rows("audit", "export", "--after", str(entry["number"] - 1))
        self.assertEqual([one["number"] for one in exported], [entry["number"]])
        self.assertEqual(self.rows("audit", "export", "--after", str(entry["number"])), [])
