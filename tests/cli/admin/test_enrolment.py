"""``fleetspeak-admin enrolment`` and ``audit``."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import serialization

from fleetspeak import ids
from fleetspeak.pb import client, operator
from fleetspeak.security import certificates, keys

from .doubles import ToolTestCase


class EnrolmentTests(ToolTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.key = keys.generate()
        self.public_der = keys.public_der(self.key)
        self.client_id = ids.client_id_of_key(self.public_der)

    def test_status(self) -> None:
        reply = operator.GetEnrolmentResponse(clients=9, blacklisted=1, in_contact=4)
        self.server.replies["GetEnrolment"] = reply
        self.assertEqual(
            self.succeed("enrolment", "status"),
            "Enrolment is open.\n9 clients, 1 of them blacklisted; 4 had a contact within 1d.\n",
        )
        reply.enrolment.mode = operator.Enrolment.CLOSED
        self.assertEqual(json.loads(self.succeed("enrolment", "status", "--json"))["enrolment"], "closed")

    def test_open_and_close(self) -> None:
        self.assertEqual(self.succeed("enrolment", "close"), "Enrolment is closed.\n")
        self.assertEqual(self.server.last.request.mode, operator.Enrolment.CLOSED)
        self.assertEqual(self.succeed("enrolment", "open"), "Enrolment is open.\n")
        self.assertEqual(self.server.last.request.mode, operator.Enrolment.OPEN)

    def test_enrol_from_all_kinds_of_files(self) -> None:
        self.server.replies["EnrolClient"] = operator.EnrolClientResponse(client_id=self.client_id)
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        certificate = certificates.to_pem(certificates.client_certificate(self.key, self.client_id, time.time()))
        private = self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        state = client.ClientState(client_key=private).SerializeToString()
        for content in (public, certificate.encode(), state):
            path = Path(self.mktemp())
            path.write_bytes(content)
            printed = self.succeed("enrolment", "enrol", str(path), "--label", "linux")
            self.assertEqual(printed, f"{self.client_id.hex()}\n")
            self.assertEqual(self.server.last.request.public_key, self.public_der)
            self.assertEqual(list(self.server.last.request.labels), ["linux"])

    def test_files_without_a_key(self) -> None:
        for content in (b"", b"garbage", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\x0a\x01x"):
            path = Path(self.mktemp())
            path.write_bytes(content)
            self.assertIn("has no usable public key", self.fail_to("enrolment", "enrol", str(path)))
        self.assertIn("unable to read", self.fail_to("enrolment", "enrol", "/nowhere"))

    def test_a_server_that_enrols_somebody_else(self) -> None:
        self.server.replies["EnrolClient"] = operator.EnrolClientResponse(client_id=b"12345678")
        path = Path(self.mktemp())
        path.write_bytes(client.ClientState(client_key=_der(self.key)).SerializeToString())
        self.assertIn("is not the id of this key", self.fail_to("enrolment", "enrol", str(path)))


def _der(key: object) -> bytes:
    der: bytes = key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return der


class AuditTests(ToolTestCase):
    def entry(self, number: int) -> operator.AuditEntry:
        made = operator.AuditEntry(
            number=number,
            caller="alice",
            address="192.0.2.1:5",
            role="operator",
            method="fleetspeak.server.Admin/InsertMessage",
            request="destination hello",
            outcome="OK",
        )
        made.time.seconds = 1_700_000_000
        made.duration.FromMilliseconds(1250)
        return made

    def record(self, number: int) -> dict[str, object]:
        return {
            "number": number,
            "time": "2023-11-14T22:13:20Z",
            "caller": "alice",
            "role": "operator",
            "address": "192.0.2.1:5",
            "method": "fleetspeak.server.Admin/InsertMessage",
            "request": "destination hello",
            "outcome": "OK",
            "detail": "",
            "seconds": 1.25,
        }

    def test_list(self) -> None:
        self.server.replies["ListAuditEntries"] = operator.ListAuditEntriesResponse(entries=[self.entry(7)])
        words = ("--caller", "alice", "--method", "M", "--since", "2023-11-14", "--limit", "3")
        self.assertEqual(json.loads(self.succeed("audit", "list", *words, "--json")), self.record(7))
        request = self.server.last.request
        self.assertEqual((request.caller, request.method, request.page_size), ("alice", "M", 3))
        self.assertIn("alice", self.succeed("audit", "list", terminal=True))

    def test_export(self) -> None:
        self.server.replies["ExportAuditEntries"] = [self.entry(number) for number in (5, 6, 9)]
        lines = self.succeed("audit", "export", "--after", "4").splitlines()
        self.assertEqual([json.loads(line) for line in lines], [self.record(number) for number in (5, 6, 9)])
        self.assertEqual(self.server.last.request.after, 4)

    def test_an_export_that_stops_is_not_waited_for(self) -> None:
        gone = threading.Event()
        self.addCleanup(gone.set)

        def stops(request: object, context: grpc.ServicerContext) -> object:
            context.add_callback(gone.set)
            yield self.entry(1)
            gone.wait(30)

        self.server.replies["ExportAuditEntries"] = stops
        outcome = self.run_tool("audit", "export", "--timeout", "3")
        self.assertEqual((outcome.status, len(outcome.out.splitlines())), (1, 1))
        self.assertIn("nothing went on for 3 s", outcome.err)
        self.assertTrue(gone.wait(30))
