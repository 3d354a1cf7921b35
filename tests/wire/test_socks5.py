"""client-https 2: SOCKS 5 with and without user and password (RFC 1928, RFC 1929)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import FleetspeakError, ProtocolError, ProxyRefused
from fleetspeak.wire.socks5 import Socks5
from tests.wire.pieces import CUTS, cut

GRANTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x1f\x90"
REPLIES = [
    GRANTED,
    b"\x05\x00\x00\x03\x05proxy\x00\x01",
    b"\x05\x00\x00\x04" + bytes(18),
]


def outcome(pieces: list[bytes], username: str | None = None) -> tuple[str, bytes, bytes]:
    """What becomes of it, what was sent, and what is left for the tunnel."""
    said, sent, rest = Socks5("server", 443, username, "pw"), b"", b""
    for piece in pieces:
        if said.done:
            rest += piece
            continue
        try:
            sent += said.feed(piece)
        except FleetspeakError as error:
            return f"{type(error).__name__}: {error}", b"", b""
        rest += said.rest
    return "done" if said.done else "unfinished", sent, rest


class Socks5Tests(SynchronousTestCase):
    def refusal(self, *answers: bytes, **credentials: str) -> str:
        said = Socks5("server", 443, **credentials)
        for answer in answers[:-1]:
            said.feed(answer)
        return str(self.assertRaises(ProxyRefused, said.feed, answers[-1]))

    def test_without_user(self) -> None:
        said = Socks5("fleet.example", 443)
        self.assertEqual(said.begin(), b"\x05\x01\x00")
        self.assertEqual(said.feed(b"\x05\x00"), b"\x05\x01\x00\x03\x0dfleet.example\x01\xbb")
        self.assertEqual(said.feed(GRANTED + b"tls"), b"")
        self.assertEqual((said.done, said.rest), (True, b"tls"))

    def test_with_user_and_password(self) -> None:
        said = Socks5("127.0.0.1", 1, "user", "sesame")
        self.assertEqual(said.begin(), b"\x05\x02\x00\x02")
        self.assertEqual(said.feed(b"\x05\x02"), b"\x01\x04user\x06sesame")
        self.assertEqual(said.feed(b"\x01\x00"), b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x01")

    def test_an_ipv6_address(self) -> None:
        said = Socks5("::1", 443)
        self.assertEqual(said.feed(b"\x05\x00"), b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x01\xbb")

    def test_each_kind_of_bound_address(self) -> None:
        for reply in REPLIES:
            self.assertEqual(outcome([b"\x05\x00" + reply + b"rest"])[::2], ("done", b"rest"))

    def test_refusals_say_what_to_do(self) -> None:
        self.assertIn("give them in its URL", self.refusal(b"\x05\xff"))
        self.assertIn("takes neither", self.refusal(b"\x05\xff", username="user"))
        wrong = self.refusal(b"\x05\x02", b"\x01\x01", username="user", password="sesame")
        self.assertIn("does not take the user", wrong)
        self.assertNotIn("sesame", wrong)
        self.assertIn("said 5: the server refused its connection", self.refusal(b"\x05\x00", b"\x05\x05"))
        self.assertIn("said 77", self.refusal(b"\x05\x00", b"\x05\x4d\x00\x01"))

    def test_what_is_not_socks_is_noticed(self) -> None:
        for answers in ([b"HTTP/1.1"], [b"\x04"], [b"\x05\x02"], [b"\x05\x00\x06"], [b"\x05\x00\x05\x00\x00\x02\x00"]):
            self.assertTrue(outcome(answers)[0].startswith("ProtocolError"), answers)

    def test_what_the_protocol_cannot_say_is_refused(self) -> None:
        self.assertRaises(ValueError, Socks5, "x" * 256, 1)
        self.assertRaises(ValueError, Socks5, "x", 1, "u" * 256)

    @given(st.sampled_from(REPLIES), st.binary(max_size=40), CUTS, st.booleans())
    def test_any_split_gives_the_same(self, reply: bytes, tail: bytes, cuts: list[int], with_user: bool) -> None:
        answer = (b"\x05\x02\x01\x00" if with_user else b"\x05\x00") + reply + tail
        user = "user" if with_user else None
        self.assertEqual(outcome([answer], user), outcome(cut(answer, cuts), user))
        self.assertEqual(outcome([answer], user)[::2], ("done", tail))

    @given(st.sampled_from([b"", b"\x05\x00", b"\x05\x00\x05\x00\x00"]), st.binary(max_size=300), CUTS)
    def test_any_bytes_end_in_one_way_whatever_the_split(self, start: bytes, garbage: bytes, cuts: list[int]) -> None:
        self.assertEqual(outcome([start + garbage])[0], outcome(cut(start + garbage, cuts))[0])

    def test_a_wrong_version_is_an_error_of_the_protocol(self) -> None:
        self.assertRaises(ProtocolError, Socks5("h", 1).feed, b"H")
