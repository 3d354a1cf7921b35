"""Notifications between servers over HTTP (server-core 7)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.ids import ClientId
from fleetspeak.wire.notification import Refused, client_of, is_proven, path_of, proof

ALICE = ClientId(bytes.fromhex("0102030405060aff"))


class RequestTests(SynchronousTestCase):
    def test_section_7_the_replies_of_the_listener(self) -> None:
        """The table of replies; the path test comes before the method test."""
        for method, path, expected in (
            (b"POST", b"/client/0102030405060aff", ALICE),
            (b"POST", b"/client/0102030405060AFF", ALICE),
            (b"POST", b"/", Refused(404, "not found")),
            (b"POST", b"/client", Refused(404, "not found")),
            (b"POST", b"/clients/0102030405060aff", Refused(404, "not found")),
            (b"POST", b"/client/0102030405060aff/", Refused(404, "not found")),
            (b"POST", b"client/0102030405060aff", Refused(404, "not found")),
            (b"GET", b"/nothing", Refused(404, "not found")),
            (b"POST", b"/client/", Refused(400, "Client id is required.")),
            (b"POST", b"/client/nil", Refused(400, "Client id is required.")),
            (b"GET", b"/client/0102030405060aff", Refused(400, "Unexpected method: GET")),
        ):
            self.assertEqual(client_of(method, path), expected, path)
        for wrong in (b"0102", b"%30102030405060aff", b"0102030405060afg", b"0102030405060aff00", b"%ff", b"x" * 5000):
            refused = client_of(b"POST", b"/client/" + wrong)
            assert isinstance(refused, Refused)
            self.assertEqual(refused.status, 400)
            self.assertTrue(refused.text.startswith("Failed to parse client id ["), refused.text)
            self.assertLess(len(refused.text), 300)

    @given(st.binary(min_size=8, max_size=8))
    def test_what_is_told_is_heard(self, client_id: bytes) -> None:
        self.assertEqual(client_of(b"POST", path_of(ClientId(client_id))), client_id)

    @given(st.binary(max_size=10), st.binary(max_size=60))
    def test_anything_is_a_client_or_refused(self, method: bytes, path: bytes) -> None:
        answer = client_of(method, b"/client/" + path)
        if isinstance(answer, Refused):
            self.assertIn(answer.status, (400, 404))
        else:
            self.assertEqual(len(answer), 8)


class ProofTests(SynchronousTestCase):
    def test_only_who_has_the_secret_proves_it(self) -> None:
        secret = b"a secret of some length"
        proven = proof(secret, ALICE)
        self.assertTrue(is_proven(secret, ALICE, proven))
        self.assertNotIn(secret, proven)
        for wrong in (None, b"", proven[:-1], proven + b"0", proof(b"another secret", ALICE), b"Basic abc"):
            self.assertFalse(is_proven(secret, ALICE, wrong), wrong)

    def test_a_proof_is_for_one_client(self) -> None:
        self.assertFalse(is_proven(b"secret", ClientId(b"\0" * 8), proof(b"secret", ALICE)))
