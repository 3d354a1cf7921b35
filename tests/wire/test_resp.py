"""RESP, the protocol of Redis."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError
from fleetspeak.wire import resp
from fleetspeak.wire.resp import Error, Parser, Push, command

LINES = st.binary(max_size=20).filter(lambda line: b"\r" not in line and b"\n" not in line)


def encode(value: Any) -> bytes:
    """As a server would write it."""
    if value is None:
        return b"_\r\n"
    if isinstance(value, bool):
        return b"#t\r\n" if value else b"#f\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, Error):
        return b"-" + value.text + b"\r\n"
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    kind = b">" if isinstance(value, Push) else b"*"
    return kind + b"%d\r\n" % len(value) + b"".join(map(encode, value))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.binary(max_size=40),
        LINES.map(Error),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(Push)),
    max_leaves=10,
)


class ParserTests(SynchronousTestCase):
    def parse(self, data: bytes) -> list[Any]:
        return Parser().feed(data)

    @given(st.lists(VALUES, max_size=4), st.data())
    def test_values_survive_any_split(self, values: list[Any], data: st.DataObject) -> None:
        written = b"".join(map(encode, values))
        parser, found, start = Parser(), [], 0
        while start < len(written):
            end = data.draw(st.integers(start + 1, len(written)))
            found += parser.feed(written[start:end])
            start = end
        self.assertEqual(found, values)
        self.assertEqual([type(one) for one in found], [type(one) for one in values])

    @given(st.binary(max_size=60))
    def test_anything_is_values_or_one_error(self, data: bytes) -> None:
        parser = Parser()
        try:
            for index in range(len(data)):
                parser.feed(data[index : index + 1])
        except ProtocolError:
            return

    @given(st.text(alphabet="*$>%|~-+:_#,(!=0123456789\r\nabct", max_size=60))
    def test_what_looks_like_it_is_values_or_one_error(self, text: str) -> None:
        whole, pieces = self.outcome([text.encode()]), self.outcome([bytes([one]) for one in text.encode()])
        if whole is not None and pieces is not None:
            self.assertEqual(whole, pieces)

    def outcome(self, pieces: list[bytes]) -> list[Any] | None:
        parser, found = Parser(), []
        try:
            for piece in pieces:
                found += parser.feed(piece)
        except ProtocolError:
            return None
        return found

    def test_every_kind(self) -> None:
        for written, value in (
            (b"+OK\r\n", b"OK"),
            (b"-ERR no\r\n", Error(b"ERR no")),
            (b":-12\r\n", -12),
            (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
            (b"$-1\r\n", None),
            (b"*-1\r\n", None),
            (b"*0\r\n", []),
            (b"_\r\n", None),
            (b"#t\r\n", True),
            (b",1.5\r\n", b"1.5"),
            (b"(123456789012345678901234567890\r\n", 123456789012345678901234567890),
            (b"!6\r\nERR no\r\n", Error(b"ERR no")),
            (b"=7\r\ntxt:abc\r\n", b"abc"),
            (b"%1\r\n+a\r\n:1\r\n", [b"a", 1]),
            (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
            (b"|1\r\n+ttl\r\n:1\r\n:7\r\n", 7),
            (b"|0\r\n:7\r\n", 7),
            (b">2\r\n+a\r\n*1\r\n:1\r\n", Push([b"a", [1]])),
        ):
            self.assertEqual(self.parse(written), [value], written)

    def test_limits(self) -> None:
        """What is announced is refused before it takes memory."""
        for written in (
            b"$%d\r\n" % (resp.MAX_BYTES + 1),
            b"$99999999999999999999999\r\n",
            b"*%d\r\n" % (resp.MAX_ITEMS + 1),
            b"*-2\r\n",
            b"$-2\r\n",
            b"*1\r\n" * (resp.MAX_DEPTH + 1),
            b"+" + b"x" * resp.MAX_BYTES,
            b"(" + b"1" * 5000 + b"\r\n",
        ):
            self.assertRaises(ProtocolError, self.parse, written)

    def test_what_is_not_resp(self) -> None:
        for written in (b"HTTP/1.1 400 Bad\r\n", b"\r\n", b":x\r\n", b"#x\r\n", b"_x\r\n", b"$1\r\nabc", b"$\r\n"):
            self.assertRaises(ProtocolError, self.parse, written)

    @given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
    def test_a_command_is_an_array_of_strings(self, words: list[bytes]) -> None:
        self.assertEqual(self.parse(command(*words)), [words])
