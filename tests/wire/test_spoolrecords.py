"""Records of the spool: whatever happens to the bytes, good records come out and nothing else does."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.wire.spoolrecords import (
    ACK_SIZE,
    HEADER,
    MAX_BODY,
    Scan,
    decode_acks,
    encode,
    encode_ack,
    scan,
)

SEED = 0x12345678
bodies = st.lists(st.binary(max_size=60), max_size=12)


def segment(several: list[bytes], seed: int = SEED) -> tuple[bytes, list[tuple[int, bytes]]]:
    numbered = list(enumerate(several, 1))
    return b"".join(encode(number, body, seed) for number, body in numbered), numbered


def found(result: Scan) -> list[tuple[int, bytes]]:
    return [(record.number, record.body) for record in result.records]


class Records(SynchronousTestCase):
    def test_what_a_record_is(self) -> None:
        """The layout is on the disk of every client: it must not change."""
        self.assertEqual("f553504c0300000007000000000000005f7693a2890659f7616263", encode(7, b"abc", SEED).hex())
        self.assertEqual(24, HEADER)

    def test_too_large_a_body_is_refused(self) -> None:
        self.assertRaises(ValueError, encode, 1, bytes(MAX_BODY + 1), 0)
        self.assertEqual(MAX_BODY, len(scan(encode(1, bytes(MAX_BODY), 0), 0, whole=True).records[0].body))

    @given(bodies, st.integers(0, 2**32 - 1))
    def test_what_was_written_comes_out_in_order(self, several: list[bytes], seed: int) -> None:
        data, expected = segment(several, seed)
        result = scan(data, seed, whole=True)
        self.assertEqual(expected, found(result))
        self.assertEqual(([], len(data), 0), (result.damages, result.used, result.needed))

    @given(bodies, st.data())
    def test_a_cut_anywhere_loses_nothing_before_it(self, several: list[bytes], draw: st.DataObject) -> None:
        data, expected = segment(several)
        cut = draw.draw(st.integers(0, len(data)))
        result = scan(data[:cut], SEED, whole=True)
        whole = result.records[-1].end if result.records else 0
        self.assertEqual(expected[: len(result.records)], found(result))
        self.assertTrue(all(damage.torn for damage in result.damages), "a cut is not damage")
        self.assertEqual([whole] * (cut > whole), [damage.start for damage in result.damages])
        following = segment(several[: len(result.records) + 1])[0]
        self.assertTrue(len(following) > cut or len(following) == len(data))

    @given(bodies, st.data())
    def test_flipped_bits_lose_only_the_records_they_are_in(self, several: list[bytes], draw: st.DataObject) -> None:
        data, expected = segment(several)
        if not data:
            return
        broken = bytearray(data)
        places = draw.draw(st.sets(st.integers(0, len(data) * 8 - 1), min_size=1, max_size=4))
        for place in places:
            broken[place // 8] ^= 1 << place % 8
        hit, start = set(), 0
        for number, body in expected:
            end = start + HEADER + len(body)
            if any(start <= place // 8 < end for place in places):
                hit.add(number)
            start = end
        result = scan(bytes(broken), SEED, whole=True)
        self.assertEqual([each for each in expected if each[0] not in hit], found(result))
        self.assertTrue(result.damages)

    @given(bodies, st.data())
    def test_bytes_that_vanish_or_turn_up_lose_only_the_records_they_are_in(
        self, several: list[bytes], draw: st.DataObject
    ) -> None:
        data, expected = segment(several)
        first = draw.draw(st.integers(0, len(data)))
        last = draw.draw(st.integers(first, min(len(data), first + 80)))
        result = scan(data[:first] + draw.draw(st.binary(max_size=30)) + data[last:], SEED, whole=True)
        self.assertLessEqual(set(found(result)), set(expected))
        before = [each for each, end in _ends(expected) if end <= first]
        behind = [each for each, end in _ends(expected) if end - HEADER - len(each[1]) >= last]
        self.assertEqual(before, found(result)[: len(before)])
        self.assertEqual(behind, found(result)[len(found(result)) - len(behind) :])

    @given(st.binary(max_size=300), st.booleans())
    def test_any_bytes_are_dealt_with(self, data: bytes, whole: bool) -> None:
        result = scan(data, SEED, whole=whole)
        self.assertEqual([], result.records)
        if whole:
            self.assertEqual(len(data), result.used)

    def test_a_record_inside_a_message_is_not_taken_for_one(self) -> None:
        """Somebody who writes messages does not know the seed."""
        inner = encode(2, b"injected", 0)
        data = encode(1, inner, SEED)
        broken = b"\0" + data[1:]
        self.assertEqual([], scan(broken, SEED, whole=True).records)

    def test_lengths_that_lie_take_no_memory(self) -> None:
        head = encode(1, b"", SEED)
        lie = b"\xf5SPL" + b"\xff\xff\xff\xff" + head[8:]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        result = scan(lie, SEED, whole=False)
        self.assertEqual([], result.records)
        self.assertLess(tracemalloc.get_traced_memory()[1], 100_000)

    def test_zeros_at_the_end_are_space_that_was_not_written(self) -> None:
        data, expected = segment([b"abc"])
        result = scan(data + bytes(4096), SEED, whole=True)
        self.assertEqual(expected, found(result))
        self.assertTrue(result.damages[0].torn)

    @given(bodies, st.data())
    def test_pieces_come_to_the_same(self, several: list[bytes], draw: st.DataObject) -> None:
        """As the reader does it: what was not used comes again, with more behind it."""
        data, expected = segment(several)
        if data and draw.draw(st.booleans()):
            broken = bytearray(data)
            broken[draw.draw(st.integers(0, len(data) - 1))] ^= 0xFF
            data = bytes(broken)
        at, numbers, steps = 0, [], 0
        size = step = draw.draw(st.integers(1, 100))
        while at < len(data):
            piece = data[at : at + size]
            result = scan(piece, SEED, whole=at + size >= len(data), limit=draw.draw(st.integers(1, 3)))
            numbers += found(result)
            at += result.used
            size = step if result.used else result.needed
            steps += 1
            self.assertLess(steps, 3000)
        self.assertEqual(found(scan(data, SEED, whole=True)), numbers)
        self.assertLessEqual(set(numbers), set(expected))


class Acks(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(1, 2**63), st.integers(0, 1000))), st.integers(0, 19))
    def test_round_trip_with_a_torn_end(self, acks: list[tuple[int, int]], torn: int) -> None:
        ranges = [(first, first + more) for first, more in acks]
        data = b"".join(encode_ack(*each) for each in ranges)
        self.assertEqual(ranges, decode_acks(data + bytes(torn)))

    @given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.data())
    @settings(max_examples=50)
    def test_a_damaged_entry_is_passed_over(self, numbers: list[int], draw: st.DataObject) -> None:
        data = bytearray(b"".join(encode_ack(number, number) for number in numbers))
        place = draw.draw(st.integers(0, len(data) * 8 - 1))
        data[place // 8] ^= 1 << place % 8
        del numbers[place // 8 // ACK_SIZE]
        self.assertEqual([(number, number) for number in numbers], decode_acks(bytes(data)))

    def test_zeros_are_no_ack(self) -> None:
        self.assertEqual([], decode_acks(bytes(ACK_SIZE * 10)))
        self.assertEqual([], decode_acks(encode_ack(5, 4)))


def _ends(numbered: list[tuple[int, bytes]]) -> list[tuple[tuple[int, bytes], int]]:
    ends, at = [], 0
    for each in numbered:
        at += HEADER + len(each[1])
        ends.append((each, at))
    return ends
