from __future__ import annotations

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.server.https.body import RecordReader, WholeBody, is_known_encoding
from fleetspeak.wire import streamframes


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    return [*pieces, data]


def take_all(reader: RecordReader) -> list[bytes]:
    taken = []
    while (one := reader.next_record()) is not None:
        taken.append(one)
    return taken


class WholeBodyTests(SynchronousTestCase):
    def test_encodings(self) -> None:
        self.assertTrue(is_known_encoding(""))
        self.assertTrue(is_known_encoding("deflate"))
        self.assertFalse(is_known_encoding("gzip"))

    @given(st.binary(max_size=2000), st.lists(st.integers(0, 300), max_size=8), st.sampled_from(["", "deflate"]))
    def test_any_split(self, data: bytes, cuts: list[int], encoding: str) -> None:
        body = WholeBody(encoding)
        for piece in split(zlib.compress(data) if encoding else data, cuts):
            body.feed(piece)
        self.assertEqual(body.finish(), data)

    def test_limit(self) -> None:
        for encoding in ("", "deflate"):
            exactly, over = WholeBody(encoding, 10), WholeBody(encoding, 10)
            exactly.feed(zlib.compress(bytes(10)) if encoding else bytes(10))
            self.assertEqual(exactly.finish(), bytes(10))
            with self.assertRaises(TooLarge):
                over.feed(zlib.compress(bytes(11)) if encoding else bytes(11))

    @settings(max_examples=50)
    @given(st.binary(max_size=200))
    def test_garbage_is_one_clear_error(self, data: bytes) -> None:
        body = WholeBody("deflate")
        try:
            body.feed(data)
            body.finish()
        except ProtocolError:
            return
        self.assertEqual(zlib.decompress(data), body.finish())


class RecordReaderTests(SynchronousTestCase):
    @given(
        st.lists(st.binary(max_size=300), max_size=6),
        st.lists(st.integers(0, 300), max_size=8),
        st.sampled_from(["", "deflate"]),
    )
    def test_any_split(self, records: list[bytes], cuts: list[int], encoding: str) -> None:
        data = streamframes.MAGIC + b"".join(map(streamframes.encode, records))
        reader = RecordReader(encoding)
        taken: list[bytes] = []
        for piece in split(zlib.compress(data) if encoding else data, cuts):
            reader.feed(piece)
            taken += take_all(reader)
            self.assertFalse(reader.has_more)
        self.assertEqual(taken, records)
        reader.finish()

    def test_what_is_not_asked_for_stays_compressed(self) -> None:
        million = streamframes.MAGIC + b"\x00" * 200_000
        reader = RecordReader("deflate")
        reader.feed(zlib.compress(million, 9))
        self.assertEqual(reader.next_record(), b"")
        self.assertTrue(reader.has_more)
        self.assertLess(len(reader._records), 100_000)
        self.assertEqual(len(take_all(reader)), 199_999)

    @settings(max_examples=50)
    @given(st.binary(max_size=200), st.sampled_from(["", "deflate"]))
    def test_garbage_is_records_or_one_clear_error(self, data: bytes, encoding: str) -> None:
        reader = RecordReader(encoding)
        reader.feed(data)
        try:
            take_all(reader)
            reader.finish()
        except ProtocolError:
            pass
