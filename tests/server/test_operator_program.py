"""What operators ask of the server as it is started: over gRPC, with clients on HTTPS."""

from __future__ import annotations

import hashlib

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetspeak import rpc
from fleetspeak.pb import common, operator
from fleetspeak.testing.wireclient import Connection, Identity, RefusedError
from tests.server.test_assembly import ServerCase, note


class OperatorProgramTests(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        program = self.start("--https-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--services_config=services")
        program.wait_for_line("Fleetspeak server started.")
        _, self.port = self.address(program, "HTTPS frontend")
        channel = grpc.insecure_channel("{}:{}".format(*self.address(program, "admin API")))
        self.addCleanup(channel.close)
        self.operator = rpc.operator.OperatorStub(channel)
        self.admin = rpc.admin.AdminStub(channel)
        self.identity = Identity.make()

    def connect(self, identity: Identity | None = None) -> Connection:
        trusted = (self.folder / "fleetspeak-ca.pem").read_text()
        connection = Connection(("localhost", self.port), trusted, identity or self.identity)
        self.addCleanup(connection.close)
        return connection

    def test_enrolment_is_closed_and_one_machine_let_in(self) -> None:
        """Who is known goes on; strangers get 503, and leave nothing behind."""
        known = self.connect()
        known.poll(common.ContactData())
        self.operator.SetEnrolment(operator.Enrolment(mode=operator.Enrolment.CLOSED), timeout=10)
        stranger = Identity.make()
        connection = self.connect(stranger)
        with self.assertRaises(RefusedError) as caught:
            connection.poll(common.ContactData(messages=[note("sink", 1)]))
        self.assertEqual((caught.exception.status, caught.exception.text.strip()), (503, "not authorized"))
        known.poll(common.ContactData())
        self.assertEqual(self.operator.GetEnrolment(operator.GetEnrolmentRequest(), timeout=10).clients, 1)
        counts = self.operator.CountMessages(operator.CountMessagesRequest(), timeout=10).counts
        self.assertEqual(list(counts), [])
        certificate = x509.load_pem_x509_certificate(stranger.certificate_and_key.encode())
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        request = operator.EnrolClientRequest(public_key=key, labels=["corp"])
        self.assertEqual(self.operator.EnrolClient(request, timeout=10).client_id, stranger.client_id)
        self.connect(stranger).poll(common.ContactData(messages=[note("sink", 2)]))
        [count] = self.operator.CountMessages(operator.CountMessagesRequest(), timeout=10).counts
        self.assertEqual((count.service, count.state, count.count), ("sink", operator.PROCESSED, 1))

    def test_a_file_of_more_than_4_mib(self) -> None:
        """Uploaded, and fetched by a client."""
        content = bytes(range(256)) * (20 * 1024)
        head = operator.UploadFileRequest.Head(
            service_name="sink", file_name="large", size=len(content), sha256=hashlib.sha256(content).digest()
        )
        pieces = [content[start : start + 2**20] for start in range(0, len(content), 2**20)]
        requests = [operator.UploadFileRequest(head=head), *(operator.UploadFileRequest(data=one) for one in pieces)]
        self.assertEqual(self.operator.UploadFile(iter(requests), timeout=30).size, len(content))
        connection = self.connect()
        connection.poll(common.ContactData())
        rest = connection.request("GET", "/files/sink/large", b"", {"Range": "bytes=5000000-"})
        self.assertEqual((rest.status, rest.body), (206, content[5_000_000:]))
        [listed] = self.operator.ListFiles(operator.ListFilesRequest(), timeout=10).files
        self.assertEqual((listed.service_name, listed.file_name), ("sink", "large"))

    def test_what_waits_is_cancelled(self) -> None:
        """And is never delivered."""
        connection = self.connect()
        connection.poll(common.ContactData())
        order = note("hello", 5, "Order")
        order.message_id, order.destination.client_id = b"o" * 32, self.identity.client_id
        self.admin.InsertMessage(order, timeout=10)
        waiting = operator.MessageFilter(client_id=self.identity.client_id, state="WAITING")
        [entry] = self.operator.ListMessages(operator.ListMessagesRequest(filter=waiting), timeout=10).messages
        cancelled = self.operator.CancelMessages(
            operator.CancelMessagesRequest(message_ids=[entry.message_id]), timeout=10
        )
        self.assertEqual(cancelled.cancelled, 1)
        self.assertEqual(list(connection.poll(common.ContactData()).messages), [])
