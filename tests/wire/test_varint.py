from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError
from fleetspeak.wire import varint
from tests import vectors

_LONGEST = b"\xff" * 9 + b"\x01"


class VarintTests(SynchronousTestCase):
    def test_known_answers(self) -> None:
        for known in vectors.load("streaming_frames")["varints"]:
            encoded = bytes.fromhex(known["hex"])
            self.assertEqual(varint.encode(known["value"]), encoded)
            self.assertEqual(varint.decode(encoded), (known["value"], len(encoded)))

    @settings(max_examples=200)
    @given(st.integers(0, 2**64 - 1), st.binary(max_size=5), st.binary(max_size=5))
    def test_what_is_encoded_is_decoded_wherever_it_stands(self, value: int, before: bytes, after: bytes) -> None:
        encoded = varint.encode(value)
        self.assertEqual(varint.decode(before + encoded + after, len(before)), (value, len(before) + len(encoded)))

    @given(st.integers(0, 2**64 - 1))
    def test_a_part_of_one_asks_for_more(self, value: int) -> None:
        encoded = varint.encode(value)
        for size in range(len(encoded)):
            self.assertIsNone(varint.decode(encoded[:size]))

    def test_sixty_four_bits_and_no_more(self) -> None:
        self.assertEqual(varint.decode(_LONGEST), (2**64 - 1, 10))
        self.assertRaises(ProtocolError, varint.decode, b"\xff" * 9 + b"\x02")

    def test_ten_bytes_and_no_more(self) -> None:
        self.assertIsNone(varint.decode(b"\x80" * 9))
        self.assertRaises(ProtocolError, varint.decode, b"\x80" * 10)

    def test_numbers_that_are_none_of_it_are_refused(self) -> None:
        self.assertRaises(ValueError, varint.encode, -1)
        self.assertRaises(ValueError, varint.encode, 2**64)

    @settings(max_examples=200)
    @given(st.binary(max_size=20))
    def test_any_bytes_give_a_value_or_one_clear_error(self, garbage: bytes) -> None:
        try:
            found = varint.decode(garbage)
        except ProtocolError:
            return
        if found is not None:
            value, offset = found
            self.assertTrue(0 <= value < 2**64 and 0 < offset <= min(10, len(garbage)))
