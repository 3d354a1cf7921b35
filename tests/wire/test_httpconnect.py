"""client-https 2: CONNECT, and what proxies say to it."""

from __future__ import annotations

import base64

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import FleetspeakError, ProtocolError, ProxyRefused, TooLarge
from fleetspeak.wire.httpconnect import MAX_HEAD, HttpConnect
from tests.wire.pieces import CUTS, cut

ESTABLISHED = b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n"


def outcome(pieces: list[bytes]) -> tuple[str, bytes]:
    """What becomes of it, and what is left for the tunnel."""
    said, rest = HttpConnect("server", 443), b""
    for piece in pieces:
        if said.done:
            rest += piece
            continue
        try:
            assert said.feed(piece) == b""
        except FleetspeakError as error:
            return f"{type(error).__name__}: {error}", b""
        rest += said.rest
    return "done" if said.done else "unfinished", rest


class RequestTests(SynchronousTestCase):
    def test_the_name_is_for_the_proxy_to_resolve(self) -> None:
        self.assertEqual(
            HttpConnect("fleet.example", 4443).begin(),
            b"CONNECT fleet.example:4443 HTTP/1.1\r\nHost: fleet.example:4443\r\nUser-Agent: fleetspeak-client\r\n\r\n",
        )

    def test_an_ipv6_address_is_in_brackets(self) -> None:
        self.assertTrue(HttpConnect("2001:db8::1", 443).begin().startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"))

    def test_user_and_password_are_basic_authorization(self) -> None:
        request = HttpConnect("h", 1, "user", "pass:wörd").begin()
        self.assertIn(
            b"\r\nProxy-Authorization: Basic " + base64.b64encode("user:pass:wörd".encode()) + b"\r\n", request
        )


class AnswerTests(SynchronousTestCase):
    def refusal(self, answer: bytes, **credentials: str) -> str:
        return str(self.assertRaises(ProxyRefused, HttpConnect("h", 1, **credentials).feed, answer))

    def test_success_gives_the_rest_to_the_tunnel(self) -> None:
        self.assertEqual(outcome([ESTABLISHED + b"\x16\x03"]), ("done", b"\x16\x03"))
        self.assertEqual(outcome([b"HTTP/1.1 200\r\n\r\n"]), ("done", b""))
        self.assertEqual(outcome([b"HTTP/1.1 200 OK\nVia: x\n\nx"]), ("done", b"x"))

    def test_407_says_whether_credentials_are_missing_or_wrong(self) -> None:
        answer = b"HTTP/1.0 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n\r\n<html>"
        missing = self.refusal(answer)
        self.assertIn("407 Proxy Authentication Required; give it user and password in the proxy's URL", missing)
        wrong = self.refusal(answer, username="user", password="sesame")
        self.assertIn("does not take the user and password", wrong)
        self.assertNotIn("sesame", wrong)

    def test_403_and_502_say_what_to_do(self) -> None:
        self.assertIn("403 Access denied; its rules forbid", self.refusal(b"HTTP/1.0 403 Access denied\r\n\r\n"))
        self.assertIn("it cannot reach the server", self.refusal(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"))
        self.assertIn("404 Not Found; check that this is", self.refusal(b"HTTP/1.1 404 Not Found\r\n\r\n"))

    def test_its_own_words_are_shortened_and_made_harmless(self) -> None:
        said = self.refusal(b"HTTP/1.0 403 \x1b[31mNo\x07\xff" + b"x" * 500 + b"\r\n\r\n")
        self.assertTrue(said.isprintable() or "\ufffd" in said)
        self.assertNotIn("\x1b", said)
        self.assertLess(len(said), 250)

    def test_what_is_not_http_is_noticed_at_the_first_byte(self) -> None:
        for answer in (b"\x05", b"SSH-2.0", b"HTTP/2", b"HTTP/1.1 abc\r\n\r\n", b"\r\n\r\n"):
            self.assertRaises(ProtocolError, HttpConnect("h", 1).feed, answer)

    def test_an_endless_head_is_given_up(self) -> None:
        said = HttpConnect("h", 1)
        said.feed(b"HTTP/1.1 200 OK\r\nX: ")
        self.assertRaises(TooLarge, said.feed, b"y" * MAX_HEAD)

    @given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: ESTABLISHED + tail)), CUTS)
    @example(b"HTTP/1.1 403 Forbidden\r\n\r\nbody", [3, 9, 24])
    def test_any_split_gives_the_same(self, answer: bytes, cuts: list[int]) -> None:
        whole, pieces = outcome([answer]), outcome(cut(answer, cuts))
        self.assertEqual(whole, pieces)

    @given(st.sampled_from([b"", b"HTTP/1.", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n"]), st.binary(max_size=300))
    def test_whatever_comes_there_is_one_clear_end(self, start: bytes, garbage: bytes) -> None:
        said = HttpConnect("h", 1)
        try:
            said.feed(start + garbage)
        except (ProxyRefused, ProtocolError):
            self.assertFalse(said.done)
