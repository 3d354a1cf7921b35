"""What gRPC's calls are in terms of HTTP/2."""

from __future__ import annotations

import grpc
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.wire.grpccalls import (
    MAX_DETAILS,
    STATUSES,
    Status,
    Target,
    parse_target,
    request_body,
    request_head,
    status_of,
    time_limit,
)
from fleetspeak.wire.h2calls import Response

EMPTY = b"\0\0\0\0\0"


def response(body: bytes = EMPTY, **fields: str) -> Response:
    """With ``status`` and gRPC's fields."""
    headers = [(b":status", fields.pop("status", "200").encode())]
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return Response(1, headers, body)


class StatusTests(SynchronousTestCase):
    def test_the_codes_are_those_of_grpc(self) -> None:
        self.assertEqual(
            {code.name: code.value[0] for code in grpc.StatusCode}, dict(zip(STATUSES, range(17), strict=True))
        )
        for number, name in enumerate(STATUSES):
            self.assertEqual(status_of(response(grpc_status=str(number))).code, name)

    def test_numbers_that_are_none(self) -> None:
        for number in ("17", "99", "-1", "", "x", "1" * 100, "\N{SUPERSCRIPT TWO}"):
            self.assertEqual(status_of(response(grpc_status=number)).code, "UNKNOWN")

    def test_details_are_percent_encoded(self) -> None:
        status = status_of(response(grpc_status="3", grpc_message="50%25 \N{EURO SIGN} %E2%82%AC %zz %ff"))
        self.assertEqual(
            status, Status("INVALID_ARGUMENT", "50% \N{EURO SIGN} \N{EURO SIGN} %zz \N{REPLACEMENT CHARACTER}")
        )

    def test_long_details_are_cut(self) -> None:
        self.assertEqual(len(status_of(response(grpc_status="3", grpc_message="x" * 50_000)).details), MAX_DETAILS)

    def test_success_needs_one_message(self) -> None:
        for body in (b"", b"\0\0\0\0", EMPTY + b"x", EMPTY * 2, b"\1\0\0\0\0", b"\0\0\0\0\2x"):
            self.assertEqual(status_of(response(body, grpc_status="0")).code, "INTERNAL")
        self.assertEqual(status_of(response(b"\0\0\0\0\2xx", grpc_status="0")), Status("OK", reply=b"xx"))

    def test_what_does_not_speak_grpc(self) -> None:
        for http, code in (("200", "UNKNOWN"), ("404", "UNIMPLEMENTED"), ("503", "UNAVAILABLE"), ("418", "UNKNOWN")):
            status = status_of(response(status=http))
            self.assertEqual(status.code, code)
            self.assertIn("is it a gRPC server?" if http != "200" else "is the target a gRPC server?", status.details)
        self.assertEqual(status_of(Response(1)).code, "UNKNOWN")

    def test_a_call_that_broke_off(self) -> None:
        broken = response(grpc_status="0")
        broken.error = "gone"
        self.assertEqual(status_of(broken), Status("UNAVAILABLE", "gone"))

    def test_a_response_that_is_too_large(self) -> None:
        large = Response(1, error="too much", is_too_large=True)
        self.assertEqual(status_of(large), Status("RESOURCE_EXHAUSTED", "too much"))

    @given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20))), st.binary(max_size=20))
    def test_any_response(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        status = status_of(Response(1, headers, body))
        self.assertIn(status.code, STATUSES)


class RequestTests(SynchronousTestCase):
    @given(st.text("abc/.", min_size=1, max_size=400), st.text("abc:", min_size=1, max_size=300), st.booleans())
    def test_heads(self, path: str, authority: str, tls: bool) -> None:
        """Are what HPACK's decoder reads; strings of 127 bytes and more have a longer length."""
        decoded = dict(Decoder().decode(request_head(path, authority, tls=tls) + time_limit(29), raw=True))
        self.assertEqual(decoded[b":path"], path.encode())
        self.assertEqual(decoded[b":authority"], authority.encode())
        self.assertEqual(decoded[b":scheme"], b"https" if tls else b"http")
        self.assertEqual(decoded[b"grpc-timeout"], b"29000m")

    def test_time_limits(self) -> None:
        for seconds, text in ((1.5, b"1500m"), (0, b"1m"), (-3, b"1m"), (10**9, b"99999999m")):
            self.assertTrue(time_limit(seconds).endswith(text))

    def test_the_body(self) -> None:
        self.assertEqual(request_body(b"abc"), b"\0\0\0\0\3abc")


class TargetTests(SynchronousTestCase):
    def test_what_is_understood(self) -> None:
        for text, target, authority in (
            ("localhost:1337", Target("localhost", 1337), "localhost:1337"),
            ("localhost", Target("localhost", 443), "localhost:443"),
            ("dns:///a.example:1", Target("a.example", 1), "a.example:1"),
            ("dns:a.example:1", Target("a.example", 1), "a.example:1"),
            ("ipv4:127.0.0.1:1", Target("127.0.0.1", 1), "127.0.0.1:1"),
            ("ipv6:[::1]:1", Target("::1", 1), "[::1]:1"),
            ("[::1]:1", Target("::1", 1), "[::1]:1"),
            ("[::1]", Target("::1", 443), "[::1]:443"),
            ("passthrough:///a:1", Target("a", 1), "a:1"),
            ("unix:/run/a.sock", Target(path="/run/a.sock"), "localhost"),
            ("unix:///run/a.sock", Target(path="/run/a.sock"), "localhost"),
            ("unix:a.sock", Target(path="a.sock"), "localhost"),
        ):
            self.assertEqual(parse_target(text), target)
            self.assertEqual(target.authority, authority)

    def test_what_is_not(self) -> None:
        for text, words in (
            ("localhost:http", "should end in a port"),
            ("localhost:0", "should end in a port"),
            ("localhost:65536", "should end in a port"),
            (":1", "names no host"),
            ("a b:1", "names no host"),
            ("::1", "brackets"),
            ("xds:///service:1", "brackets"),
            ("dns://8.8.8.8/a:1", "DNS server"),
            ("unix:", "no Unix socket"),
        ):
            error = self.assertRaises(ValueError, parse_target, text)
            self.assertIn(words, str(error))

    @given(st.text(max_size=30))
    def test_any_text(self, text: str) -> None:
        try:
            target = parse_target(text)
        except ValueError:
            return
        self.assertTrue(target.path or (target.host and 0 < target.port < 65536))
