"""The contact that the doctor makes: when, and what may come of it."""

from __future__ import annotations

import os

from twisted.internet import reactor

from fleetspeak.client.doctor import contact
from fleetspeak.client.doctor.configuration import Patient
from fleetspeak.client.doctor.examination import examine
from fleetspeak.client.doctor.findings import Finding, Status
from fleetspeak.client.persistence.lock import StateLock
from fleetspeak.pb import common
from tests.client.doctor.patients import Answering, DoctorTestCase


class ContactTests(DoctorTestCase):
    async def contact(self, server: Answering, *, wanted: bool = True) -> Finding:
        report = await examine(Patient(self.configure(self.listen(server)), contact=wanted), reactor)
        return self.found(report, "contact")

    async def test_what_a_server_answers_to_a_contact(self) -> None:
        for answer, status, found in (
            (Answering("200 OK", b""), Status.OK, "takes contact data"),
            (Answering("200 OK", self.blacklisted()), Status.WARNING, "blacklisted"),
            (Answering("200 OK", b"\xff\xff"), Status.FAILED, "not a ContactData"),
        ):
            finding = await self.contact(answer)
            self.assertIs(finding.status, status, finding)
            self.assertIn(found, finding.found)

    async def test_a_server_that_takes_the_request_and_refuses_the_contact(self) -> None:
        finding = await self.contact(Answering())
        self.assertIs(finding.status, Status.FAILED)
        self.assertIn("status 404", finding.found)
        self.assertIn("required_label", finding.next_step)

    async def test_it_is_left_out_where_it_could_disturb(self) -> None:
        server = Answering("200 OK", b"")
        finding = await self.contact(server, wanted=False)
        self.assertIs(finding.status, Status.SKIPPED)
        self.assertEqual([asked[:4] for asked in server.requests], [b"GET "])

    def blacklisted(self) -> bytes:
        return common.ContactData(messages=[common.Message(message_type="RekeyRequest")]).SerializeToString()


class StoppedTests(DoctorTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.state.with_name("state.lock")

    def test_a_client_that_left_its_lock_file_is_stopped(self) -> None:
        lock = StateLock(self.path)
        lock.acquire()
        self.assertFalse(contact.is_stopped(self.state))
        lock.release()
        self.path.write_text("4194305\n")  # more than Linux gives out
        self.assertTrue(contact.is_stopped(self.state))

    def test_one_whose_process_is_there_is_not(self) -> None:
        self.path.write_text(f"{os.getppid()}\n")
        self.assertFalse(contact.is_stopped(self.state))

    def test_of_a_client_without_a_lock_nothing_is_known(self) -> None:
        self.assertFalse(contact.is_stopped(self.state))
        self.assertFalse(contact.is_stopped(None))
