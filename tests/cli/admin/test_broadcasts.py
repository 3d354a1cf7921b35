"""``fleetspeak-admin broadcasts``."""

from __future__ import annotations

import json
import time

from fleetspeak.pb import operator
from fleetspeak.records import UNLIMITED

from .doubles import ToolTestCase

ONE = "00000000000000b1"


class BroadcastsTests(ToolTestCase):
    def test_create(self) -> None:
        printed = self.succeed("broadcasts", "create", "--from", "greeter", "--type", "Greeting")
        request = self.server.last.request
        self.assertEqual(printed, f"{request.broadcast.broadcast_id.hex()}\n")
        self.assertEqual(len(request.broadcast.broadcast_id), 8)
        self.assertEqual((request.limit, request.broadcast.source.service_name), (UNLIMITED, "greeter"))
        self.assertFalse(request.broadcast.HasField("destination"))
        self.assertFalse(request.broadcast.HasField("expiration_time"))
        # Of upstream's API, so that a Go server takes it too.
        self.assertNotIsInstance(request, operator.CreateBroadcastRequest)

    def test_create_with_everything(self) -> None:
        before = time.time()
        words = ("--from", "greeter", "--service", "hello", "--label", "linux", "--limit", "10", "--max-errors", "3")
        more = ("--expires", "2h", "--group", "g", "--id", ONE, "--data-type", "google.protobuf.StringValue")
        self.assertEqual(self.succeed("broadcasts", "create", *words, *more), f"{ONE}\n")
        request = self.server.last.request
        self.assertIsInstance(request, operator.CreateBroadcastRequest)
        self.assertEqual((request.limit, request.max_errors), (10, 3))
        broadcast = request.broadcast
        self.assertEqual((broadcast.destination.service_name, broadcast.group_name), ("hello", "g"))
        self.assertEqual(broadcast.required_labels[0].label, "linux")
        self.assertLess(abs(broadcast.expiration_time.seconds - before - 7200), 60)
        self.assertEqual(broadcast.data.type_url, "type.googleapis.com/google.protobuf.StringValue")

    def test_limits_that_cannot_be(self) -> None:
        for text in ("-1", "x", str(UNLIMITED + 1)):
            self.assertIn("--limit", self.fail_to("broadcasts", "create", "--from", "s", "--limit", text, status=2))

    def test_list(self) -> None:
        reply = operator.ListBroadcastsResponse()
        entry = reply.broadcasts.add(state=operator.PAUSED, limit=UNLIMITED, sent=5, errors=1, max_errors=3)
        entry.broadcast.broadcast_id = bytes.fromhex(ONE)
        entry.broadcast.source.service_name = "greeter"
        self.server.replies["ListBroadcasts"] = reply
        row = json.loads(self.succeed("broadcasts", "list", "--state", "paused", "--service", "greeter", "--json"))
        self.assertEqual(
            row,
            {
                "broadcast_id": ONE,
                "service": "greeter",
                "destination": "greeter",
                "message_type": "",
                "labels": [],
                "group": "",
                "expires": None,
                "state": "paused",
                "limit": None,
                "sent": 5,
                "allocated": 0,
                "errors": 1,
                "max_errors": 3,
            },
        )
        request = self.server.last.request
        self.assertEqual((request.state, request.service), (operator.PAUSED, "greeter"))
        self.assertIn("choose from 'active', 'paused'", self.fail_to("broadcasts", "list", "--state", "x", status=2))

    def test_pause_resume_disable(self) -> None:
        for word, method, told in (
            ("pause", "PauseBroadcasts", "1 broadcasts are paused.\n"),
            ("resume", "ResumeBroadcasts", "1 broadcasts are resumed.\n"),
            ("disable", "DisableBroadcasts", "Successfully sent disable request for 1 broadcasts.\n"),
        ):
            self.assertEqual(self.succeed("broadcasts", word, ONE), told)
            self.assertEqual(self.server.last.method, method)
            self.assertEqual([one.hex() for one in self.server.last.request.broadcast_ids], [ONE])
            self.assertIn("no-id", self.fail_to("broadcasts", word, "no-id"))
