from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.wire import streamframes, varint
from fleetspeak.wire.compression import Inflater
from fleetspeak.wire.streamframes import MAGIC, MAX_RECORD, Decoder
from tests import vectors
from tests.wire.pieces import CUTS, cut

_RECORDS = st.lists(st.binary(max_size=300), max_size=6)


class DecoderTests(SynchronousTestCase):
    def test_the_go_clients_stream_is_read(self) -> None:
        """client-tests 75: magic, varint, body; as the released client sent them."""
        chunks = [bytes.fromhex(c["hex"]) for c in vectors.load("streaming_frames")["plain_chunks"] if "hex" in c]
        decoder = Decoder(MAX_RECORD, expect_magic=True)
        records = [record for chunk in chunks for record in decoder.feed(chunk)]
        self.assertEqual([len(record) for record in records], [384, 315])

    def test_the_go_clients_compressed_stream_is_read_record_by_record(self) -> None:
        """client-tests 75: one zlib stream, with a sync flush after each frame."""
        recorded = vectors.load("streaming_frames")
        inflater, decoder = Inflater(), Decoder(MAX_RECORD, expect_magic=True)
        records: list[bytes] = []
        for chunk in recorded["deflate_chunks"][1:]:
            for piece in inflater.feed(bytes.fromhex(chunk["hex"])):
                records += decoder.feed(piece)
        self.assertEqual([record.hex() for record in records], [frame["wrapped_hex"] for frame in recorded["frames"]])
        self.assertEqual(decoder.buffered, 0)

    def test_the_servers_records_have_no_magic(self) -> None:
        for frame in vectors.load("streaming_frames")["server_frames"]:
            encoded = bytes.fromhex(frame["frame_hex"])
            [body] = Decoder(MAX_RECORD, expect_magic=False).feed(encoded)
            self.assertEqual(streamframes.encode(body), encoded)

    @settings(max_examples=150)
    @given(_RECORDS, CUTS, st.booleans())
    def test_records_survive_any_split(self, records: list[bytes], cuts: list[int], magic: bool) -> None:
        stream = (MAGIC if magic else b"") + b"".join(map(streamframes.encode, records))
        decoder = Decoder(MAX_RECORD, expect_magic=magic)
        self.assertEqual([got for piece in cut(stream, cuts) for got in decoder.feed(piece)], records)
        decoder.finish()

    @settings(max_examples=150)
    @given(_RECORDS.filter(bool), st.integers(1, 2**16))
    def test_a_stream_that_is_cut_off_inside_a_record_is_noticed(self, records: list[bytes], missing: int) -> None:
        last = streamframes.encode(records[-1])
        stream = MAGIC + b"".join(map(streamframes.encode, records))
        decoder = Decoder(MAX_RECORD, expect_magic=True)
        decoder.feed(stream[: -(missing % len(last)) or None])
        if missing % len(last):
            self.assertRaises(ProtocolError, decoder.finish)
        else:
            decoder.finish()

    def test_a_stream_without_its_magic_is_noticed(self) -> None:
        self.assertRaises(ProtocolError, Decoder(MAX_RECORD, expect_magic=True).finish)

    def test_a_wrong_magic_is_refused_at_its_first_wrong_byte(self) -> None:
        decoder = Decoder(MAX_RECORD, expect_magic=True)
        self.assertEqual(decoder.feed(MAGIC[:1]), [])
        self.assertRaises(ProtocolError, decoder.feed, b"\xff")

    def test_a_record_over_the_limit_is_refused_from_its_length_alone(self) -> None:
        """client-tests 81: nothing is allocated for it."""
        decoder = Decoder(100, expect_magic=False)
        [record] = decoder.feed(varint.encode(100) + bytes(100))
        self.assertEqual(len(record), 100)
        self.assertRaises(TooLarge, decoder.feed, varint.encode(101))

    def test_an_empty_record_is_a_record(self) -> None:
        self.assertEqual(Decoder(MAX_RECORD, expect_magic=False).feed(b"\0\0"), [b"", b""])

    def test_only_what_is_incomplete_is_held(self) -> None:
        decoder = Decoder(MAX_RECORD, expect_magic=False)
        decoder.feed(streamframes.encode(b"whole") + b"\x05par")
        self.assertEqual(decoder.buffered, 4)

    @settings(max_examples=200)
    @given(st.binary(max_size=200), CUTS)
    def test_any_bytes_give_records_or_one_clear_error(self, garbage: bytes, cuts: list[int]) -> None:
        decoder = Decoder(64, expect_magic=False)
        try:
            for piece in cut(garbage, cuts):
                for record in decoder.feed(piece):
                    self.assertLessEqual(len(record), 64)
        except ProtocolError:
            return
        self.assertLessEqual(decoder.buffered, 64 + varint.MAX_SIZE)
