"""What a process left unread goes to the next one, as far as the kernel lets us know what that is."""

from __future__ import annotations

import socket

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.process.handedover import MAX_REPEATS, Frame
from fleetspeak.client.sockets.unread import Unread, hung_up, unread_at_most
from tests.client.process.children import message, until
from tests.client.sockets.case import SocketCase


class Kernel(SynchronousTestCase):
    """Fails where the system is not as `fleetspeak.client.sockets.unread` takes it to be."""

    def setUp(self) -> None:
        self.here, self.there = socket.socketpair()
        self.addCleanup(self.here.close)
        self.addCleanup(self.there.close)
        self.unread = Unread(self.here)

    def write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.here.sendall(piece)
            self.unread.wrote(len(piece), Frame(piece))

    def left_over(self) -> list[bytes]:
        return [frame.data for frame in self.unread.left_over()]

    def test_nothing_is_unread_only_when_all_was_read(self) -> None:
        self.assertEqual(0, unread_at_most(self.here))
        self.here.sendall(b"12345678")
        self.assertGreaterEqual(unread_at_most(self.here) or 0, 8)
        self.there.recv(7)
        self.assertGreater(unread_at_most(self.here) or 0, 0)
        self.there.recv(1)
        self.assertEqual(0, unread_at_most(self.here))

    def test_when_the_other_end_is_gone_nobody_can_tell(self) -> None:
        self.here.sendall(b"unread")
        self.assertFalse(hung_up(self.here))
        self.there.close()
        self.assertTrue(hung_up(self.here))
        self.assertIsNone(unread_at_most(self.here))

    def test_the_other_end_has_read_everything_if_the_end_is_an_end_of_file(self) -> None:
        self.here.sendall(b"x")
        self.there.recv(1)
        self.there.close()
        self.assertEqual(b"", self.here.recv(1))

    def test_and_has_not_if_it_is_a_reset(self) -> None:
        self.here.sendall(b"x")
        self.there.close()
        self.assertRaises(ConnectionResetError, self.here.recv, 1)

    def test_what_was_read_is_not_left_over(self) -> None:
        self.write(b"1")
        self.there.recv(10)
        self.unread.look()
        self.write(b"2", b"3")
        self.there.close()
        self.unread.look()
        self.assertEqual([b"2", b"3"], self.left_over())
        self.unread.read_everything()
        self.assertEqual([], self.left_over())

    def test_what_may_have_been_read_is_not_repeated_for_ever(self) -> None:
        frames = [Frame(b"doubtful"), Frame(b"last")]
        for _ in range(MAX_REPEATS + 1):
            unread = Unread(self.here)
            for frame in frames:
                self.here.sendall(frame.data)
                unread.wrote(len(frame.data), frame)
            frames = unread.left_over()
        self.assertEqual([b"last"], [frame.data for frame in frames])


class Left(SocketCase):
    """What a process left unread goes to the next one."""

    async def test_unread_messages_go_to_the_next_connection(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        assert peer.transport is not None
        await service.process(message("read"))
        await until(lambda: peer.messages)
        peer.transport.pauseProducing()  # type: ignore[attr-defined]
        for number in range(3):
            await service.process(message(f"unread {number}"))
        peer.transport.abortConnection()  # type: ignore[attr-defined]
        await until(lambda: self.counter.closed)
        following = await self.ready_peer()
        await service.process(message("new"))
        await until(lambda: len(following.messages) == 4)
        self.assertEqual(["unread 0", "unread 1", "unread 2", "new"], following.types())

    async def test_what_was_read_does_not(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        for number in range(3):
            await service.process(message(f"read {number}"))
        await until(lambda: len(peer.messages) == 3)
        await peer.close()
        following = await self.ready_peer()
        await service.process(message("new"))
        await until(lambda: following.messages)
        self.assertEqual(["new"], following.types())

    async def test_a_message_that_found_no_room_in_a_dying_process_reaches_the_next(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        assert peer.transport is not None
        peer.transport.pauseProducing()  # type: ignore[attr-defined]
        big = message("Big")
        big.data.value = bytes(1024 * 1024)
        waiting = self.process(service, big)
        peer.transport.abortConnection()  # type: ignore[attr-defined]
        following = await self.ready_peer()
        await waiting
        await until(lambda: following.types() == ["Big"])

    async def test_a_process_that_takes_nothing_holds_up_process(self) -> None:
        service = self.service()
        peer = await self.ready_peer()
        assert peer.transport is not None
        peer.transport.pauseProducing()  # type: ignore[attr-defined]
        big = message("Big")
        big.data.value = bytes(1024 * 1024)
        waiting = self.process(service, big)
        self.assertNoResult(waiting)
        waiting.cancel()
        await self.assertFailure(waiting, CancelledError)
        peer.transport.resumeProducing()  # type: ignore[attr-defined]
        await service.process(message("next"))
        await until(lambda: peer.types() == ["Big", "next"])
