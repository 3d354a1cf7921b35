"""What comes over a channel, and when it is late (client-tests.md I 84 to 86)."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelframes import MAGIC
from fleetspeak.wire.channelreader import READ_LIMIT, ChannelReader


class Deadlines(SynchronousTestCase):
    def test_item_84_a_dead_peer_is_noticed(self) -> None:
        reader = ChannelReader(now=100.0, read_limit=1.0)
        reader.check(100.9)
        self.assertIn("timed out", str(self.assertRaises(ProtocolError, reader.check, 101.0)))
        self.assertFalse(reader.opened)

    def test_item_85_garbage_is_refused(self) -> None:
        reader = ChannelReader(0.0)
        error = self.assertRaises(ProtocolError, reader.feed, b"this is not the protocol", 0.1)
        self.assertIn("unexpected magic number", str(error))

    def test_between_messages_a_peer_may_be_silent(self) -> None:
        reader = ChannelReader(0.0)
        reader.feed(MAGIC, 1.0)
        self.assertTrue(reader.opened)
        self.assertIsNone(reader.deadline)
        reader.check(1e9)

    def test_a_body_must_come(self) -> None:
        reader = ChannelReader(0.0)
        reader.feed(MAGIC + struct.pack("<I", 10) + b"123", 1.0)
        reader.feed(b"456", 200.0)
        self.assertEqual(1.0 + READ_LIMIT, reader.deadline)

    def test_each_magic_number_has_its_own_time(self) -> None:
        reader = ChannelReader(0.0)
        reader.feed(MAGIC + struct.pack("<I", 3), 1.0)
        reader.feed(b"abc", 200.0)
        self.assertEqual(200.0 + READ_LIMIT, reader.deadline)
        self.assertEqual([b"abc"], reader.feed(MAGIC, 201.0))

    def test_the_next_message_has_its_own_time(self) -> None:
        reader = ChannelReader(0.0)
        frame = struct.pack("<I", 3) + b"abc"
        reader.feed(MAGIC + frame, 1.0)
        self.assertEqual([b"abc"], reader.feed(MAGIC + frame, 200.0))
        self.assertEqual(200.0 + READ_LIMIT, reader.deadline)

    def test_time_in_which_nothing_was_read_does_not_count(self) -> None:
        reader = ChannelReader(0.0)
        reader.feed(MAGIC + struct.pack("<I", 3), 1.0)
        reader.resumed(1000.0)
        self.assertEqual(1000.0 + READ_LIMIT, reader.deadline)

    def test_messages_in_front_of_garbage_are_not_lost(self) -> None:
        reader = ChannelReader(0.0)
        data = MAGIC + channelframes.encode(b"one") + channelframes.encode(b"two") + b"\xff" * 8
        self.assertEqual([b"one", b"two"], reader.feed(data, 1.0))
        self.assertRaises(ProtocolError, reader.feed, b"", 1.0)
        self.assertRaises(ProtocolError, reader.finish)

    def test_the_end_is_orderly_only_where_a_length_is_due(self) -> None:
        self.assertRaises(ProtocolError, ChannelReader(0.0).finish)
        reader = ChannelReader(0.0)
        reader.feed(MAGIC, 0.0)
        reader.finish()
        reader.feed(b"\1", 0.0)
        self.assertRaises(ProtocolError, reader.finish)


class Properties(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=40), max_size=6), st.data())
    def test_any_split_gives_the_same_messages(self, bodies: list[bytes], data: st.DataObject) -> None:
        stream = MAGIC + b"".join(map(channelframes.encode, bodies))
        reader = ChannelReader(0.0)
        got: list[bytes] = []
        offset, now = 0, 0.0
        while offset < len(stream):
            size = data.draw(st.integers(1, len(stream) - offset))
            now += 1.0
            opened = reader.opened
            got += reader.feed(stream[offset : offset + size], now)
            offset += size
            self.assertEqual(offset >= len(MAGIC), reader.opened)
            if reader.opened and not opened and reader.deadline is not None:
                self.assertEqual(now + READ_LIMIT, reader.deadline)
        self.assertEqual(bodies, got)
        self.assertIsNone(reader.deadline)
        reader.finish()

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
    def test_reading_what_is_needed_never_reads_ahead(self, bodies: list[bytes]) -> None:
        stream = MAGIC + b"".join(map(channelframes.encode, bodies))
        reader = ChannelReader(0.0)
        offset = 0
        for number, body in enumerate(bodies):
            got: list[bytes] = []
            while not got:
                self.assertGreater(reader.needed, 0)
                piece = stream[offset : offset + reader.needed]
                offset += len(piece)
                got = reader.feed(piece, 0.0)
            self.assertEqual([body], got)
            self.assertEqual(offset, len(MAGIC) + sum(len(channelframes.encode(each)) for each in bodies[: number + 1]))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.binary(max_size=30), max_size=10))
    def test_any_bytes_end_in_messages_or_one_clear_error(self, pieces: list[bytes]) -> None:
        reader = ChannelReader(0.0)
        try:
            for now, piece in enumerate(pieces):
                reader.feed(piece, float(now))
            reader.finish()
        except ProtocolError as error:
            self.assertTrue(str(error))
