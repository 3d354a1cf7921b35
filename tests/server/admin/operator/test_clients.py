"""Clients and enrolment, as an operator sees them."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetspeak import ids
from fleetspeak.ids import ClientId
from fleetspeak.pb import common, operator
from fleetspeak.records import ClientData, Contact, Label
from fleetspeak.store.outcome import only
from tests.server.admin.case import C1, C2, NOW, AdminCase

BAD = "INVALID_ARGUMENT"


class ClientTests(AdminCase):
    async def clients(self, **fields: object) -> list[bytes]:
        """All ids, by pages."""
        request = operator.ListClientsRequest(**fields)  # type: ignore[arg-type]
        found: list[bytes] = []
        while True:
            reply = await self.call("operator.ListClients", request)
            self.assertLessEqual(len(reply.clients), request.page_size or 100)
            found += [client.client_id for client in reply.clients]
            request.page_token = reply.next_page_token
            if not request.page_token:
                return found

    async def test_pages(self) -> None:
        """Of a hundred, unless another size is asked for."""
        more = [ClientId((1000 + number).to_bytes(8, "big")) for number in range(150)]
        for client_id in more:
            await self.store.add_client(client_id, ClientData(b"k"))
        self.assertEqual(await self.clients(), [C1, C2, *more])
        self.assertEqual(await self.clients(page_size=76), [C1, C2, *more])
        self.assertEqual(await self.clients(page_size=5000), [C1, C2, *more])

    async def test_filters(self) -> None:
        await self.store.add_client(ClientId(b"corp lap"), ClientData(b"k", frozenset({Label("client", "corp")})))
        corp = common.Label(service_name="client", label="corp")
        self.assertEqual(await self.clients(labels=[corp]), [b"corp lap"])
        await self.store.blacklist_client(C1)
        only_these = operator.ListClientsRequest.Blacklisted
        self.assertEqual(await self.clients(blacklisted=only_these.ONLY), [C1])
        self.assertEqual(await self.clients(blacklisted=only_these.NONE), [C2, b"corp lap"])
        span = operator.TimeSpan()
        span.start.FromNanoseconds(NOW + 1)
        self.assertEqual(await self.clients(last_contact=span), [])

    async def test_what_is_wrong(self) -> None:
        span = operator.TimeSpan()
        span.start.FromNanoseconds(2)
        span.end.FromNanoseconds(1)
        for words, fields in (
            ("page_size must not be negative", {"page_size": -1}),
            ("page_token is none of this server's", {"page_token": "nonsense!"}),
            ("last_contact is no span of time: its start is after its end", {"last_contact": span}),
            ("17 labels, only 16 allowed", {"labels": [common.Label()] * 17}),
            ("blacklisted has no value 7", {"blacklisted": 7}),
        ):
            request = operator.ListClientsRequest(**fields)  # type: ignore[arg-type]
            await self.assert_refused(BAD, words, "operator.ListClients", request)
        far = operator.ListClientsRequest()
        far.last_contact.start.seconds = 2**62
        await self.assert_refused(
            BAD,
            f"last_contact.start is no valid time: Timestamp is not valid: Seconds {2**62} must be in range "
            "[-62135596800, 253402300799].",
            "operator.ListClients",
            far,
        )

    async def test_a_token_is_good_for_its_request_only(self) -> None:
        reply = await self.call("operator.ListClients", operator.ListClientsRequest(page_size=1))
        token = reply.next_page_token
        words = "page_token belongs to another request"
        other = operator.ListClientsRequest(page_token=token, blacklisted=operator.ListClientsRequest.NONE)
        await self.assert_refused(BAD, words, "operator.ListClients", other)
        contacts = operator.ListContactsRequest(client_id=C1, page_token=token)
        await self.assert_refused(BAD, words, "operator.ListContacts", contacts)

    async def test_contacts(self) -> None:
        """The newest first."""
        for number in range(5):
            await only(self.store.record_contacts([Contact(C1, number + 1, 2**64 - 1, "[::1]:9")]))
        request = operator.ListContactsRequest(client_id=C1, page_size=3)
        first = await self.call("operator.ListContacts", request)
        request.page_token = first.next_page_token
        rest = await self.call("operator.ListContacts", request)
        self.assertEqual(rest.next_page_token, "")
        self.assertEqual([one.sent_nonce for one in [*first.contacts, *rest.contacts]], [5, 4, 3, 2, 1])
        self.assertEqual(first.contacts[0].observed_address, "[::1]:9")
        nobody = operator.ListContactsRequest(client_id=b"stranger")
        self.assertEqual(len((await self.call("operator.ListContacts", nobody)).contacts), 0)
        await self.assert_refused(BAD, "client_id is required", "operator.ListContacts", operator.ListContactsRequest())

    async def test_unblacklist(self) -> None:
        """This server sees it at once."""
        await self.store.blacklist_client(C1)
        self.assertTrue((await self.cache.lookup(C1)).blacklisted)  # type: ignore[union-attr]
        request = operator.UnblacklistClientsRequest(client_ids=[C1, b"stranger"])
        await self.call("operator.UnblacklistClients", request)
        self.assertFalse((await self.cache.lookup(C1)).blacklisted)  # type: ignore[union-attr]

    async def test_one_bad_id_changes_nothing(self) -> None:
        await self.store.blacklist_client(C1)
        for bad, words in ((b"x", "ClientID must be 8 bytes"), (b"", "client_id is required")):
            request = operator.UnblacklistClientsRequest(client_ids=[C1, bad])
            await self.assert_refused(BAD, f"unable to parse id [1]: {words}", "operator.UnblacklistClients", request)
        self.assertTrue((await self.store.client_data([C1]))[C1].blacklisted)

    async def test_too_many_ids(self) -> None:
        request = operator.UnblacklistClientsRequest(client_ids=[C1] * 10_001)
        await self.assert_refused(BAD, "10001 client_ids, only 10000 allowed", "operator.UnblacklistClients", request)


class EnrolmentTests(AdminCase):
    def key(self) -> ec.EllipticCurvePublicKey:
        return ec.generate_private_key(ec.SECP256R1()).public_key()

    async def test_set_and_get(self) -> None:
        await self.store.blacklist_client(C2)
        before = await self.call("operator.GetEnrolment", operator.GetEnrolmentRequest())
        self.assertEqual(before.enrolment.mode, operator.Enrolment.OPEN)
        self.assertEqual((before.clients, before.blacklisted, before.in_contact), (2, 1, 2))
        await self.call("operator.SetEnrolment", operator.Enrolment(mode=operator.Enrolment.CLOSED))
        self.assertEqual(self.looks, ["enrolment"])
        self.time += 2 * 24 * 3600 * 10**9
        after = await self.call("operator.GetEnrolment", operator.GetEnrolmentRequest())
        self.assertEqual((after.enrolment.mode, after.in_contact), (operator.Enrolment.CLOSED, 0))
        await self.assert_refused(
            BAD,
            "mode has no value 9",
            "operator.SetEnrolment",
            operator.Enrolment(mode=9),  # type: ignore[arg-type]
        )
        request = operator.GetEnrolmentRequest()
        for seconds in (0, -1, 2**55):
            request.window.seconds = seconds
            await self.assert_refused(BAD, "window must be a time that has passed", "operator.GetEnrolment", request)

    async def test_a_client_is_enrolled(self) -> None:
        """It is the client that has this key, with labels until it reports its own."""
        key = self.key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        request = operator.EnrolClientRequest(public_key=key, labels=["corp", ""])
        reply = await self.call("operator.EnrolClient", request)
        self.assertEqual(reply.client_id, ids.client_id_of_key(key))
        found = await self.store.client_data([reply.client_id])
        self.assertEqual(found[reply.client_id], ClientData(key, frozenset({Label("client", "corp")})))
        words = f"there is a client {ids.show(reply.client_id)} already"
        await self.assert_refused("ALREADY_EXISTS", words, "operator.EnrolClient", request)

    async def test_the_id_is_that_of_the_contact(self) -> None:
        """Whatever form of the point the caller has."""
        key = self.key()
        point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        plain = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        compressed = _compressed(plain, point)
        reply = await self.call("operator.EnrolClient", operator.EnrolClientRequest(public_key=compressed))
        self.assertEqual(reply.client_id, ids.client_id_of_key(plain))

    async def test_what_is_no_key(self) -> None:
        await self.assert_refused(BAD, "public_key is required", "operator.EnrolClient", operator.EnrolClientRequest())
        good = self.key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        strange = ec.generate_private_key(ec.SECP256K1()).public_key()
        for key in (
            b"nonsense",
            good[:-1],
            bytes(20_000),
            os.urandom(91),
            strange.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        ):
            with self.assertRaisesRegex(Exception, "public_key is no DER SubjectPublicKeyInfo of a client"):
                await self.call("operator.EnrolClient", operator.EnrolClientRequest(public_key=key))
        request = operator.EnrolClientRequest(public_key=good, labels=["x" * 129])
        await self.assert_refused(
            BAD, "a label of service 'client' has more than 128 characters", "operator.EnrolClient", request
        )


def _compressed(plain: bytes, point: bytes) -> bytes:
    """The same SubjectPublicKeyInfo with a compressed point."""
    algorithm = plain[2 : len(plain) - 68]
    bits = bytes([0x03, len(point) + 1, 0]) + point
    return bytes([0x30, len(algorithm) + len(bits)]) + algorithm + bits
