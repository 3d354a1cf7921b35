"""LocalAcks: gathered for a while, written when there is room, never waited for."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.process.child import ChildGone
from fleetspeak.client.sockets.localacks import MAX_FRAME_IDS, MAX_WAITING, LocalAcks, local_ack_frames
from fleetspeak.pb import common, system
from fleetspeak.wire import channelframes


def ids_of(frame: bytes) -> list[bytes]:
    (body,) = channelframes.Decoder().feed(channelframes.MAGIC + frame)
    data = system.MessageAckData()
    assert common.Message.FromString(body).data.Unpack(data)
    return list(data.message_ids)


class LocalAcksTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.frames: list[bytes] = []
        self.writing: Deferred[None] = succeed(None)
        self.relieved = 0
        self.acks = LocalAcks(self.clock, self.write, self.relieve)

    def write(self, frame: bytes) -> Deferred[None]:
        self.frames.append(frame)
        return self.writing

    def relieve(self) -> None:
        self.relieved += 1

    def test_what_comes_within_100_ms_goes_together(self) -> None:
        self.acks.note(b"1")
        self.clock.advance(0.05)
        self.acks.note(b"2")
        self.clock.advance(0.049)
        self.assertEqual([], self.frames)
        self.clock.advance(0.001)
        self.assertEqual([[b"1", b"2"]], [ids_of(frame) for frame in self.frames])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_while_the_process_reads_nothing_they_gather(self) -> None:
        self.writing = Deferred()
        self.acks.note(b"1")
        self.clock.advance(0.1)
        for number in range(MAX_WAITING):
            self.assertFalse(self.acks.too_many)
            self.acks.note(b"%d" % number)
        self.assertTrue(self.acks.too_many)
        self.clock.advance(10)
        self.assertEqual(1, len(self.frames))
        writing, self.writing = self.writing, succeed(None)
        writing.callback(None)
        self.clock.advance(0.1)
        self.assertEqual(MAX_WAITING, len(ids_of(self.frames[1])))
        self.assertFalse(self.acks.too_many)
        self.assertEqual(2, self.relieved)

    def test_the_last_ones_go_at_once(self) -> None:
        self.acks.note(b"1")
        self.successResultOf(self.acks.finish())
        self.assertEqual([[b"1"]], [ids_of(frame) for frame in self.frames])
        self.successResultOf(self.acks.finish())

    def test_a_connection_that_is_gone(self) -> None:
        self.writing = fail(ChildGone("gone"))
        self.acks.note(b"1")
        self.successResultOf(self.acks.finish())
        self.acks.note(b"2")
        self.acks.close()
        self.acks.note(b"3")
        self.clock.advance(1)
        self.assertEqual(1, len(self.frames))

    def test_many_long_ids_are_parted(self) -> None:
        ids = [bytes([number]) * 30_000 for number in range(5)] + [bytes(MAX_FRAME_IDS + 1), b"short"]
        frames = local_ack_frames(ids)
        self.assertEqual(ids, [id for frame in frames for id in ids_of(frame)])
        self.assertEqual(5, len(frames))
