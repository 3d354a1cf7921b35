import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import ProtocolError, TooLarge
from fleetspeak.pb import common
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelframes import MAGIC, MAX_MESSAGE, Decoder
from tests import vectors
from tests.wire.pieces import CUTS, cut

_BODIES = st.lists(st.binary(max_size=200), max_size=6)


class DecoderTests(SynchronousTestCase):
    def test_item_86_the_upstream_connectors_bytes_are_read_and_made(self) -> None:
        """client-tests 86: byte for byte."""
        for step in vectors.load("channel_frames")["python_connector"]:
            sent = bytes.fromhex(step.get("hex", ""))
            if step["direction"] != "daemon->client" or not sent:
                continue
            decoder = Decoder()
            start = b"" if sent.startswith(MAGIC) else MAGIC
            [body] = decoder.feed(start + sent)
            decoder.finish()
            common.Message.FromString(body)
            self.assertEqual(MAGIC + channelframes.encode(body), start + sent)

    def test_item_86_the_go_clients_bytes_are_read(self) -> None:
        magic, message = vectors.load("channel_frames")["go_client_to_daemon"]
        decoder = Decoder()
        self.assertEqual(decoder.feed(bytes.fromhex(magic["hex"])), [])
        [body] = decoder.feed(bytes.fromhex(message["hex"]))
        self.assertEqual(common.Message.FromString(body).message_type, "ToDaemon")

    @settings(max_examples=150)
    @given(_BODIES, CUTS)
    def test_messages_survive_any_split(self, bodies: list[bytes], cuts: list[int]) -> None:
        stream = MAGIC + b"".join(map(channelframes.encode, bodies))
        decoder = Decoder()
        self.assertEqual([got for piece in cut(stream, cuts) for got in decoder.feed(piece)], bodies)
        decoder.finish()

    @settings(max_examples=150)
    @given(_BODIES, st.integers(0, 2**16))
    def test_the_only_orderly_place_to_end_is_behind_a_magic(self, bodies: list[bytes], end: int) -> None:
        stream = MAGIC + b"".join(map(channelframes.encode, bodies))
        end %= len(stream) + 1
        decoder = Decoder()
        got = decoder.feed(stream[:end])
        if stream[:end] == MAGIC + b"".join(map(channelframes.encode, got)):
            decoder.finish()
        else:
            self.assertRaises(ProtocolError, decoder.finish)

    def test_a_message_is_given_only_when_the_magic_behind_it_has_come(self) -> None:
        decoder = Decoder()
        frame = channelframes.encode(b"body")
        self.assertEqual(decoder.feed(MAGIC + frame[:-1]), [])
        self.assertEqual(decoder.feed(frame[-1:]), [b"body"])

    def test_it_says_what_it_waits_for_because_each_has_its_own_time_limit(self) -> None:
        decoder = Decoder()
        seen = [decoder.awaiting]
        for piece in (MAGIC, struct.pack("<I", 3), b"abc", MAGIC):
            decoder.feed(piece)
            seen.append(decoder.awaiting)
        self.assertEqual(seen, ["magic", "length", "body", "magic", "length"])

    def test_item_86_two_mebibytes_pass_and_one_byte_more_is_refused_on_both_ends(self) -> None:
        """client-tests 86."""
        frame = channelframes.encode(bytes(MAX_MESSAGE))
        [body] = Decoder().feed(MAGIC + frame)
        self.assertEqual(len(body), MAX_MESSAGE)
        self.assertRaises(TooLarge, channelframes.encode, bytes(MAX_MESSAGE + 1))
        error = self.assertRaises(TooLarge, Decoder().feed, MAGIC + struct.pack("<I", MAX_MESSAGE + 1))
        self.assertIn("read unexpected size, want less than [200000], got [200001]", str(error))

    def test_item_85_garbage_is_named(self) -> None:
        """client-tests 85."""
        error = self.assertRaises(ProtocolError, Decoder().feed, b"garbage!")
        self.assertIn("unexpected magic number, want [f1ee1001]", str(error))

    def test_the_end_where_a_magic_is_due_is_named(self) -> None:
        error = self.assertRaises(ProtocolError, Decoder().finish)
        self.assertEqual(str(error), "error reading magic number: EOF")

    @settings(max_examples=150)
    @given(st.binary(max_size=100), CUTS)
    def test_any_bytes_give_messages_or_one_clear_error(self, garbage: bytes, cuts: list[int]) -> None:
        decoder = Decoder()
        with contextlib.suppress(ProtocolError):
            for piece in cut(MAGIC + garbage, cuts):
                decoder.feed(piece)
            decoder.finish()
