"""What a daemon's process says and hears over the descriptors that it was given; bytes only."""

from __future__ import annotations

import os
import struct
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client_connector.inherited import InheritedChannel, ack_descriptor, channel_descriptors
from fleetspeak.errors import ProtocolError
from fleetspeak.pb import common
from fleetspeak.wire import channelframes
from fleetspeak.wire.channelframes import MAGIC
from tests import vectors
from tests.wire.pieces import CUTS, cut

RECORDED = {frame["what"]: frame for frame in vectors.load("channel_frames")["python_connector"]}


class Bytes(SynchronousTestCase):
    def test_hello_is_that_of_upstreams_connector(self) -> None:
        with mock.patch("os.getpid", return_value=1234):
            hello = InheritedChannel("0.5", acks=False).hello
        self.assertEqual(
            RECORDED["constructor, version='0.5', pid 1234: magic + StartupData frame"]["hex"], hello.hex()
        )

    def test_who_wants_acks_says_so_right_after_it(self) -> None:
        bodies = channelframes.Decoder().feed(InheritedChannel("0.5", acks=True).hello)
        messages = [common.Message.FromString(body) for body in bodies]
        self.assertEqual(["StartupData", "WantAcks"], [message.message_type for message in messages])
        self.assertEqual({"system"}, {message.destination.service_name for message in messages})
        self.assertFalse(messages[1].HasField("data"))

    def test_a_message_is_that_of_upstreams_connector(self) -> None:
        case = RECORDED["Send(Message(message_type='RequestTypeA', message_id=000000)); return value = body size"]
        message = common.Message(message_type="RequestTypeA", message_id=b"\0\0\0")
        frame, size = InheritedChannel(None, acks=False).frame(message)
        self.assertEqual((case["hex"], case["returned"]), (frame.hex(), size))

    @settings(max_examples=100)
    @given(st.lists(st.integers(0, 2**40), max_size=8).map(sorted), CUTS)
    def test_acks_survive_any_split(self, numbers: list[int], cuts: list[int]) -> None:
        machine = InheritedChannel(None, acks=True)
        for piece in cut(b"".join(struct.pack("<Q", number) for number in numbers), cuts):
            machine.acks(piece)
        newest = max(numbers, default=0)
        self.assertTrue(machine.acked(newest))
        self.assertFalse(machine.acked(newest + 1))

    @settings(max_examples=100)
    @given(st.lists(st.text(max_size=20), max_size=6))
    def test_reading_what_is_needed_gives_one_message_at_a_time(self, types: list[str]) -> None:
        machine = InheritedChannel(None, acks=False)
        sent = [common.Message(message_type=each) for each in types]
        stream = MAGIC + b"".join(channelframes.encode(message.SerializeToString()) for message in sent)
        got = []
        while stream:
            piece, stream = stream[: machine.needed], stream[machine.needed :]
            machine.received(piece)
            if machine.has_message:
                got.append(machine.receive())
                self.assertFalse(machine.has_message)
        self.assertTrue(machine.opened)
        self.assertEqual(sent, got)
        machine.received(b"")

    def test_garbage(self) -> None:
        machine = InheritedChannel(None, acks=False)
        self.assertRaises(ProtocolError, machine.received, b"abcd")
        machine = InheritedChannel(None, acks=False)
        self.assertRaises(ProtocolError, machine.received, b"")
        machine = InheritedChannel(None, acks=False)
        self.assertRaises(ProtocolError, machine.received, MAGIC + channelframes.encode(b"\xff\xff"))


class Environment(SynchronousTestCase):
    def test_no_daemon(self) -> None:
        with mock.patch.dict(os.environ, clear=True):
            self.assertIn(
                "FLEETSPEAK_COMMS_CHANNEL_INFD is not set", str(self.assertRaises(ValueError, channel_descriptors))
            )
            self.assertIsNone(ack_descriptor())

    def test_descriptors(self) -> None:
        variables = {"FLEETSPEAK_COMMS_CHANNEL_INFD": "3", "FLEETSPEAK_COMMS_CHANNEL_OUTFD": "4"}
        with mock.patch.dict(os.environ, variables):
            self.assertEqual((3, 4), channel_descriptors())

    def test_an_ack_pipe_that_did_not_come_along(self) -> None:
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        for text, expected in ((str(read), read), (str(write), None), ("9999", None), ("-1", None), ("9" * 30, None)):
            with mock.patch.dict(os.environ, {"FLEETSPEAK_COMMS_CHANNEL_ACKFD": text}):
                self.assertEqual(expected, ack_descriptor())
