"""``fleetspeak-admin messages`` and ``stats``."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from fleetspeak.core import retrytimes
from fleetspeak.pb import admin, common, operator

from .doubles import ToolTestCase, refuse

CLIENT = "00000000000000ab"
MESSAGE = "0f" * 32
OTHER = "aa" * 32


def timed(message: operator.MessageEntry) -> operator.MessageEntry:
    message.creation_time.seconds = 1_700_000_000
    return message


class InsertTests(ToolTestCase):
    def insert(self, *words: str) -> common.Message:
        printed = self.succeed("messages", "insert", "--service", "hello", "--from", "greeter", *words)
        message = self.server.last.request
        self.assertEqual(printed, f"{message.message_id.hex()}\n")
        assert isinstance(message, common.Message)
        return message

    def test_to_a_client(self) -> None:
        text = """value: "Hello" """
        message = self.insert(
            "--client", CLIENT, "--type", "Greeting", "--data-type", "google.protobuf.StringValue", "--data", text
        )
        self.assertEqual(len(message.message_id), 32)
        self.assertEqual(message.destination.client_id.hex(), CLIENT)
        self.assertEqual(message.destination.service_name, "hello")
        self.assertEqual(message.source, common.Address(service_name="greeter"))
        value = StringValue()
        self.assertTrue(message.data.Unpack(value))
        self.assertEqual(value.value, "Hello")

    def test_each_has_an_id_of_its_own(self) -> None:
        self.assertNotEqual(self.insert().message_id, self.insert().message_id)
        self.assertEqual(self.insert("--id", MESSAGE.upper()).message_id.hex(), MESSAGE)

    def test_an_answer_that_does_not_come(self) -> None:
        """Whoever tries again with the id that is told cannot send the message twice."""
        self.server.replies["InsertMessage"] = refuse(grpc.StatusCode.UNAVAILABLE, "going down")
        err = self.fail_to("messages", "insert", "--service", "hello", "--from", "greeter")
        self.assertIn(f"with --id {self.server.last.request.message_id.hex()} a second try stores it only once", err)

    def test_a_serialized_payload_of_any_type(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b"\x00raw")
        message = self.insert("--data-type", "example.test/our.Type", "--data-file", str(path))
        self.assertEqual((message.data.type_url, message.data.value), ("example.test/our.Type", b"\x00raw"))

    def test_payloads_that_cannot_be(self) -> None:
        words = ("messages", "insert", "--service", "hello", "--from", "greeter")
        for more, problem in (
            (("--data", "x"), "a payload needs --data-type"),
            (("--data-type", "our.Type", "--data", "x"), "our.Type is not known here"),
            (("--data-type", "google.protobuf.StringValue", "--data", "valu: 1"), "is no google.protobuf.StringValue"),
            (("--data-type", "a.B", "--data-file", "/nowhere"), "unable to read /nowhere"),
            (("--client", "12"), "12 is no client id"),
            (("--client", "nil"), "the empty client id"),
            (("--id", "12"), "12 is no message id"),
        ):
            self.assertIn(problem, self.fail_to(*words, *more))
        self.assertEqual(self.server.calls, [])


class StatusTests(ToolTestCase):
    def status(self, **fields: object) -> dict[str, object]:
        reply = admin.GetMessageStatusResponse()
        if fields:
            reply.creation_time.seconds = 1_700_000_000
        if "failed" in fields:
            reply.result.processed_time.seconds = 1_700_000_060
            reply.result.failed = bool(fields["failed"])
            reply.result.failed_reason = str(fields.get("reason", ""))
        self.server.replies["GetMessageStatus"] = reply
        found = json.loads(self.succeed("messages", "status", MESSAGE, "--json"))
        assert isinstance(found, dict)
        return found

    def test_states(self) -> None:
        self.assertEqual(
            self.status(),
            {"message_id": MESSAGE, "state": "unknown", "created": None, "processed": None, "reason": ""},
        )
        self.assertEqual(self.status(stored=True)["state"], "pending")
        self.assertEqual(self.status(failed=False)["state"], "processed")
        found = self.status(failed=True, reason="no such service")
        self.assertEqual((found["state"], found["reason"]), ("failed", "no such service"))
        self.assertEqual(found["processed"], "2023-11-14T22:14:20Z")
        found = self.status(failed=True, reason=retrytimes.DEAD + "given up after 9 tries")
        self.assertEqual(found["state"], "dead")

    def test_several_at_once(self) -> None:
        lines = self.succeed("messages", "status", MESSAGE, OTHER).splitlines()
        self.assertEqual([line.split()[:2] for line in lines[1:]], [[MESSAGE, "unknown"], [OTHER, "unknown"]])


class PendingTests(ToolTestCase):
    def test_pending(self) -> None:
        message = common.Message(message_id=bytes.fromhex(MESSAGE), message_type="Greeting")
        message.source.service_name, message.destination.service_name = "greeter", "hello"
        message.destination.client_id = bytes.fromhex(CLIENT)
        message.data.Pack(StringValue(value="hi"))
        self.server.replies["GetPendingMessages"] = admin.GetPendingMessagesResponse(messages=[message])
        out = self.succeed("messages", "pending", CLIENT, "--limit", "5", "--offset", "2", "--data", "--json")
        row = json.loads(out)
        self.assertEqual((row["destination"], row["size"], row["data"]), (f"hello@{CLIENT}", 4, "0a026869"))
        request = self.server.last.request
        self.assertEqual((request.offset, request.limit, request.want_data), (2, 5, True))
        self.assertIn("--offset needs --limit", self.fail_to("messages", "pending", CLIENT, "--offset", "2"))

    def test_count(self) -> None:
        self.server.replies["GetPendingMessageCount"] = admin.GetPendingMessageCountResponse(count=7)
        self.assertEqual(self.succeed("messages", "count", CLIENT), "7\n")
        self.assertEqual(self.succeed("messages", "count", CLIENT, "--json"), '{"pending": 7}\n')

    def test_delete_pending(self) -> None:
        self.succeed("messages", "delete-pending", CLIENT)
        self.assertEqual([one.hex() for one in self.server.last.request.client_ids], [CLIENT])


class ListTests(ToolTestCase):
    def test_list(self) -> None:
        entry = timed(
            operator.MessageEntry(
                message_id=bytes.fromhex(MESSAGE), state=operator.DEAD, message_type="T", attempts=3, payload_size=9
            )
        )
        entry.source.service_name = "hello"
        entry.source.client_id = bytes.fromhex(CLIENT)
        entry.destination.service_name = "greeter"
        entry.result.failed, entry.result.failed_reason = True, "given up"
        self.server.replies["ListMessages"] = operator.ListMessagesResponse(messages=[entry])
        words = ("--client", CLIENT, "--service", "greeter", "--type", "T", "--state", "Dead", "--since", "2023-11-14")
        row = json.loads(self.succeed("messages", "list", *words, "--json"))
        self.assertEqual(
            row,
            {
                "message_id": MESSAGE,
                "state": "dead",
                "created": "2023-11-14T22:13:20Z",
                "source": f"hello@{CLIENT}",
                "destination": "greeter",
                "message_type": "T",
                "attempts": 3,
                "due": None,
                "size": 9,
                "processed": None,
                "reason": "given up",
            },
        )
        wanted = self.server.last.request.filter
        self.assertEqual((wanted.service, wanted.message_type, wanted.state), ("greeter", "T", operator.DEAD))
        self.assertEqual((wanted.client_id.hex(), wanted.created.start.seconds), (CLIENT, 1_699_920_000))

    def test_a_state_that_is_none(self) -> None:
        err = self.fail_to("messages", "list", "--state", "lost", status=2)
        self.assertIn("invalid choice: 'lost' (choose from 'waiting', 'sent', 'processed', 'failed', 'dead')", err)

    def test_a_state_of_a_newer_server(self) -> None:
        entry = timed(operator.MessageEntry(state=99))  # type: ignore[arg-type]
        self.server.replies["ListMessages"] = operator.ListMessagesResponse(messages=[entry])
        self.assertEqual(json.loads(self.succeed("messages", "list", "--json"))["state"], "99")

    def test_cancel(self) -> None:
        self.server.replies["CancelMessages"] = operator.CancelMessagesResponse(cancelled=1)
        self.assertEqual(
            self.succeed("messages", "cancel", MESSAGE, OTHER, "--reason", "a mistake"),
            "Cancelled 1 of 2 messages.\n",
        )
        self.assertEqual(self.server.last.request.reason, "a mistake")

    def test_retry(self) -> None:
        self.server.replies["RetryMessages"] = operator.RetryMessagesResponse(retried=1)
        self.assertEqual(self.succeed("messages", "retry", MESSAGE), "1 messages are due again.\n")
        self.assertIn("their ids, or --all", self.fail_to("messages", "retry"))
        self.assertIn("their ids, or --all", self.fail_to("messages", "retry", MESSAGE, "--all"))

    def test_retry_of_all_dead_ones(self) -> None:
        dead = [operator.MessageEntry(message_id=number.to_bytes(32, "big")) for number in range(1200)]

        def page(request: operator.ListMessagesRequest, context: object) -> operator.ListMessagesResponse:
            self.assertEqual((request.filter.state, request.filter.service), (operator.DEAD, "greeter"))
            start = int(request.page_token or 0)
            more = str(start + 1000) if start + 1000 < len(dead) else ""
            return operator.ListMessagesResponse(messages=dead[start : start + 1000], next_page_token=more)

        def retry(request: operator.RetryMessagesRequest, context: object) -> operator.RetryMessagesResponse:
            return operator.RetryMessagesResponse(retried=len(request.message_ids))

        self.server.replies.update(ListMessages=page, RetryMessages=retry)
        self.assertEqual(
            self.succeed("messages", "retry", "--all", "--service", "greeter"), "1200 messages are due again.\n"
        )


class StatsTests(ToolTestCase):
    def test_messages(self) -> None:
        reply = operator.CountMessagesResponse()
        reply.counts.add(service="hello", to_client=True, message_type="T", state=operator.SENT, count=12)
        self.server.replies["CountMessages"] = reply
        row = json.loads(self.succeed("stats", "messages", "--state", "sent", "--since", "1h", "--json"))
        self.assertEqual(
            row,
            {
                "service": "hello",
                "to_client": True,
                "message_type": "T",
                "state": "sent",
                "count": 12,
                "oldest": None,
            },
        )
        self.assertRegex(self.succeed("stats", "messages"), r"hello +yes +T +sent +12  -\n")

    def test_clients(self) -> None:
        self.server.replies["GetEnrolment"] = operator.GetEnrolmentResponse(clients=9, blacklisted=1, in_contact=4)
        out = self.succeed("stats", "clients", "--window", "1h30m")
        self.assertIn("In contact:   4 (within 1h30m)", out)
        self.assertEqual(self.server.last.request.window.seconds, 5400)
        self.assertEqual(
            json.loads(self.succeed("stats", "clients", "--json")),
            {"clients": 9, "blacklisted": 1, "in_contact": 4, "window": 86400.0},
        )
        self.assertIn("'soon' is no duration", self.fail_to("stats", "clients", "--window", "soon"))
