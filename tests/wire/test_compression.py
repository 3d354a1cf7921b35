import contextlib
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.wire.compression import CHUNK, Deflater, Inflater, compress, decompress
from tests.wire.pieces import CUTS, cut

_BOMB = zlib.compress(bytes(64 * 1024 * 1024), 9)
"""64 KiB that stand for a thousand times as much."""


class WholeBodyTests(SynchronousTestCase):
    @given(st.binary(max_size=2000))
    def test_what_is_compressed_is_decompressed(self, data: bytes) -> None:
        self.assertEqual(decompress(compress(data), len(data)), data)

    def test_a_bomb_is_refused_at_the_limit(self) -> None:
        self.assertRaises(TooLarge, decompress, _BOMB, 20 * 1024 * 1024)

    @given(st.binary(min_size=1, max_size=500), st.integers(1, 10**6))
    def test_a_body_that_is_cut_off_is_refused(self, data: bytes, missing: int) -> None:
        compressed = compress(data)
        self.assertRaises(ProtocolError, decompress, compressed[: -(missing % len(compressed)) or -1], len(data))

    def test_bytes_behind_the_end_are_refused(self) -> None:
        self.assertRaises(ProtocolError, decompress, compress(b"body") + b"x", 100)

    @given(st.binary(max_size=100))
    def test_any_bytes_give_a_body_or_one_clear_error(self, garbage: bytes) -> None:
        for data in (garbage, compress(b"some text, some text") + garbage, b"\x78\x9c" + garbage):
            with contextlib.suppress(ProtocolError):
                self.assertLessEqual(len(decompress(data, 1000)), 1000)


class StreamTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(st.lists(st.binary(max_size=400), max_size=6))
    def test_each_piece_can_be_read_at_once(self, pieces: list[bytes]) -> None:
        """client-tests 75: a sync flush after each frame."""
        deflater, inflater = Deflater(), Inflater()
        for piece in pieces:
            compressed = deflater.feed(piece)
            if piece:
                self.assertTrue(compressed.endswith(b"\0\0\xff\xff"))
            self.assertEqual(b"".join(inflater.feed(compressed)), piece)
        self.assertEqual(b"".join(inflater.feed(deflater.finish())), b"")
        inflater.finish()

    @settings(max_examples=60)
    @given(st.binary(max_size=3000), CUTS)
    def test_a_stream_survives_any_split(self, data: bytes, cuts: list[int]) -> None:
        inflater = Inflater()
        expanded = b"".join(out for piece in cut(compress(data), cuts) for out in inflater.feed(piece))
        inflater.finish()
        self.assertEqual(expanded, data)

    def test_a_bomb_expands_only_as_far_as_is_asked_for(self) -> None:
        pieces = Inflater().feed(_BOMB)
        self.assertEqual([len(next(pieces)) for _ in range(3)], [CHUNK] * 3)

    def test_a_stream_that_is_cut_off_is_noticed(self) -> None:
        inflater = Inflater()
        list(inflater.feed(Deflater().feed(b"record")))
        self.assertRaises(ProtocolError, inflater.finish)

    def test_what_is_no_zlib_stream_is_refused(self) -> None:
        self.assertRaises(ProtocolError, list, Inflater().feed(b"plain text"))
