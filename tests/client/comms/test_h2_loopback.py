"""Both communicators and file requests over HTTP/2 and real TLS, with a fake server."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThreadPool

from fleetspeak.client.comms.polling import PollingCommunicator
from fleetspeak.client.comms.streaming import StreamingCommunicator
from fleetspeak.client.files import Files
from fleetspeak.interfaces import ICommunicator
from fleetspeak.pb import common
from tests.client.comms.fakefiles import File
from tests.client.comms.fakeh2 import H2Server
from tests.client.comms.fakeserver import FakeServer
from tests.client.comms.test_loopback import LoopbackTestCase, _Both, _message

LARGE = bytes(range(256)) * 20_000


class H2TestCase(LoopbackTestCase):
    server: H2Server

    def setUp(self) -> None:
        super().setUp()
        self.server = self.http2 = H2Server()
        self.listen_http1 = listen = self.listening.listen
        self.listening.listen = lambda factory: listen(factory, offer_http2=True)  # type: ignore[method-assign,assignment]

    async def tearDown(self) -> None:
        await super().tearDown()
        self.assertEqual({connection.protocol for connection in self.http2.open} - {b"h2"}, set())

    def run_against(self, *servers: tuple[str, int], **changes: Any) -> ICommunicator:
        return super().run_against(*servers, prefer_http2=True, **changes)

    async def acked(self, message: common.Message) -> None:
        acked: Deferred[None] = Deferred()
        self.link.outbox.submit(message, lambda: acked.callback(None))
        await acked


class _BothOverHttp2(_Both):
    async def test_a_server_that_offers_only_http1_works_on(self: Any) -> None:
        self.server = FakeServer()
        self.run_against(self.listen_http1(self.server))
        await self.acked(_message())
        self.assertIn("HTTP/1.1", self.server.requests[0].line)
        connections = self.server.connections
        self.assertEqual(connections, 2)  # one to see what it speaks

    async def test_a_file_shares_the_connection(self: Any) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.server.files["/files/S/f"] = File(LARGE)
        communicator = self.run_against(self.listening.listen(self.server))
        files = Files(
            (), self.link.stats, reactor, lambda *call: deferToThreadPool(reactor, reactor.getThreadPool(), *call), 10
        )
        files.start(communicator)
        target = Path(folder.name) / "f"
        fetching = files.fetch("S", "f", target)
        await gatherResults([fetching, Deferred.fromCoroutine(self.acked(_message()))])
        self.assertEqual(target.read_bytes(), LARGE)
        self.assertEqual(self.server.connections, 1)
        self.server.breaks = [200_000]
        await files.fetch("S", "f", target)
        self.assertEqual(target.read_bytes(), LARGE)
        asked = [request for request in self.server.requests if request.line.startswith("GET")]
        self.assertEqual(asked[-1].headers["range"], "bytes=200000-")

    async def test_large_messages_both_ways_keep_to_the_windows(self: Any) -> None:
        payload = common.Message(message_type="large")
        payload.data.value = LARGE[:2_000_000]
        self.server.to_send = [payload] * 3
        self.run_against(self.listening.listen(self.server))
        outgoing = _message("out")
        outgoing.data.value = LARGE[:2_000_000]
        await self.acked(outgoing)
        self.assertEqual([message.data.value for message in self.link.messages], [LARGE[:2_000_000]] * 3)
        [sent] = self.server.messages
        self.assertEqual(sent.data.value, LARGE[:2_000_000])
        self.assertLessEqual(max(self.server.frames), 16384)


class PollingHttp2Tests(_BothOverHttp2, H2TestCase):
    kind = PollingCommunicator

    async def test_polls_share_a_connection(self) -> None:
        self.run_against(self.listening.listen(self.server))
        for number in range(3):
            await self.acked(_message(str(number)))
        self.assertEqual(self.server.connections, 1)
        self.assertIn("POST /message HTTP/2", {request.line for request in self.server.requests})
        self.assertIn("content-length", self.server.requests[0].headers)

    async def test_a_request_that_was_refused_unbegun_is_made_again_at_once(self) -> None:
        self.server.refuse_next = 1
        self.run_against(self.listening.listen(self.server))
        await self.acked(_message())
        self.assertEqual(self.server.connections, 2)


class StreamingHttp2Tests(_BothOverHttp2, H2TestCase):
    kind = StreamingCommunicator

    async def test_the_body_stays_open_and_ends_in_order(self) -> None:
        address = self.listening.listen(self.server)
        for compression in (common.COMPRESSION_NONE, common.COMPRESSION_DEFLATE):
            communicator = self.run_against(address, compression=compression)
            for number in range(5):
                await self.acked(_message(str(number)))
            request = self.server.requests[-1]
            self.assertEqual(request.line, "POST /streaming-message HTTP/2")
            self.assertFalse({"connection", "transfer-encoding"} & set(request.headers))
            self.assertEqual(len(request.contacts), 6)
            self.communicators.remove(communicator)
            await communicator.stop()
            self.assertTrue(request.is_complete)
            await self.server.until(lambda: not self.server.open)

    async def test_the_next_stream_takes_the_same_connection(self) -> None:
        self.run_against(self.listening.listen(self.server))
        await self.acked(_message("1"))
        self.server.streams[0].send(common.ContactData(done_sending=True))
        await self.server.until(lambda: len(self.server.requests) == 2 and bool(self.server.requests[1].contacts))
        await self.acked(_message("2"))
        self.assertEqual(self.server.connections, 1)
