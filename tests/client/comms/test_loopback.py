"""Both communicators over real sockets and real TLS, against a small server that is none of ours."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fleetspeak.client.comms.polling import PollingCommunicator
from fleetspeak.client.comms.streaming import StreamingCommunicator
from fleetspeak.interfaces import ICommunicator
from fleetspeak.pb import client, common
from fleetspeak.security.certificates import to_pem
from fleetspeak.testing.clientside import FakeLink, client_settings
from tests.client.comms.fakeserver import FakeServer, Listening


def _message(name: str = "m", **fields: Any) -> common.Message:
    return common.Message(
        message_type=name,
        destination=common.Address(service_name="DummyService"),
        source_message_id=name.encode(),
        **fields,
    )


class LoopbackTestCase(TestCase):
    timeout = 20
    kind: Callable[..., Any]

    def setUp(self) -> None:
        self.listening = Listening(reactor)
        self.server = FakeServer()
        self.link = FakeLink()
        self.link.flow.add_service("system")
        self.link.flow.add_service("BlockingService")
        self.communicators: list[ICommunicator] = []

    async def tearDown(self) -> None:
        for communicator in self.communicators:
            await communicator.stop()
        await self.server.until(lambda: not self.server.streams)
        await self.listening.close()

    def run_against(self, *servers: tuple[str, int], **changes: Any) -> ICommunicator:
        config = client.CommunicatorConfig(
            max_poll_delay_seconds=2,
            max_buffer_delay_seconds=0,
            min_failure_delay_seconds=1,
            failure_suicide_time_seconds=600,
            compression=changes.pop("compression", common.COMPRESSION_NONE),
            prefer_http2=changes.pop("prefer_http2", False),
        )
        settings = client_settings(
            servers=servers, trusted_certs=(self.listening.authority,), communicator=config, **changes
        )
        communicator: ICommunicator = type(self).kind(self.link, settings, reactor, uniform=lambda: 0.0)
        self.communicators.append(communicator)
        communicator.start()
        return communicator


class _Both:
    """What holds for either communicator."""

    def test_items_44_67_a_client_that_is_stopped_before_it_found_a_server(self: Any) -> Deferred[None]:
        """Server `localhost`, and no configuration of the communicator."""

        async def run() -> None:
            self.run_against(("localhost", self.listening.dead_end()[1]))
            await deferLater(reactor, 0.05)

        return Deferred.fromCoroutine(run())

    def test_item_45_a_message_arrives_with_and_without_compression(self: Any) -> Deferred[None]:
        """Exactly it, the tokens, and the ack callback."""

        async def run() -> None:
            address = self.listening.listen(self.server)
            for compression in (common.COMPRESSION_NONE, common.COMPRESSION_DEFLATE):
                server = self.server
                server.requests.clear()
                self.run_against(address, compression=compression)
                await server.until(lambda server=server: server.contacts)
                self.assertEqual(dict(server.contacts[0].AllowedMessages), {"BlockingService": 100, "system": 100})
                acked: Deferred[None] = Deferred()
                self.link.outbox.submit(_message(str(compression)), lambda acked=acked: acked.callback(None))
                await acked
                [message] = server.messages
                self.assertEqual(message.message_type, str(compression))
                self.assertEqual(server.requests[0].labels, ["amd64", "linux"])
                [carrier] = [contact for contact in server.contacts if contact.messages]
                self.assertEqual(carrier.sequencing_nonce, 42)
                self.assertEqual(
                    {request.headers.get("content-encoding", "") for request in server.requests},
                    {"deflate" if compression else ""},
                )
                await self.communicators.pop().stop()

        return Deferred.fromCoroutine(run())

    def test_items_50_56_the_server_sees_the_clients_certificate_also_in_a_header(self: Any) -> Deferred[None]:
        async def run() -> None:
            self.run_against(self.listening.listen(self.server), client_certificate_header="X-Client-Cert")
            await self.server.until(lambda: self.server.contacts)
            [request] = self.server.requests[:1]
            self.assertEqual(request.client_id, self.link.identity.client_id)
            self.assertEqual(unquote(request.headers["x-client-cert"]), to_pem(self.link.identity.certificate))

        return Deferred.fromCoroutine(run())

    def test_item_57_a_server_that_is_down_is_passed_over_and_then_comes_last(self: Any) -> Deferred[None]:
        async def run() -> None:
            up = self.listening.listen(self.server)
            communicator = self.run_against(self.listening.dead_end(), up)
            acked: Deferred[None] = Deferred()
            self.link.outbox.submit(_message(), lambda: acked.callback(None))
            await acked
            await deferLater(reactor, 0)
            self.assertEqual(self.link.servers[0], f"127.0.0.1:{up[1]}")
            tried = [str(server) for server in communicator._servers.order()]
            self.assertEqual(tried[0], f"127.0.0.1:{up[1]}")

        return Deferred.fromCoroutine(run())

    def test_item_52_a_revoked_server_gets_no_request(self: Any) -> Deferred[None]:
        """In 5 s, though it tries every second."""

        async def run() -> None:
            self.link.revoked.add(self.listening.certificate.serial_number)
            self.run_against(self.listening.listen(self.server))
            attempts = 6 if type(self).kind is PollingCommunicator else 2
            await self.server.until(lambda: self.server.connections == attempts)
            self.assertEqual(self.server.requests, [])

        return Deferred.fromCoroutine(run())

    def test_items_60_80_after_a_rekey_the_new_certificate_is_shown(self: Any) -> Deferred[None]:
        """Within a second."""

        async def run() -> None:
            communicator = self.run_against(self.listening.listen(self.server))
            await self.server.until(lambda: self.server.contacts)
            self.link.rekey()
            communicator.reset()
            began = time.monotonic()
            await self.server.until(lambda: self.server.requests[-1].client_id == self.link.identity.client_id)
            self.assertLess(time.monotonic() - began, 1)

        return Deferred.fromCoroutine(run())

    def test_items_53_73_a_reset_of_a_hanging_connection_makes_a_new_one(self: Any) -> Deferred[None]:
        """The server accepts, and says nothing."""

        async def run() -> None:
            connected: list[Deferred[None]] = [Deferred(), Deferred()]
            hanging = Factory.forProtocol(lambda: _Silent(connected))
            communicator = self.run_against(self.listening.listen_plain(hanging))
            await connected[0]
            communicator.reset()
            await connected[1]

        return Deferred.fromCoroutine(run())

    def test_item_58_what_is_pending_at_the_stop_is_delivered(self: Any) -> Deferred[None]:
        async def run() -> None:
            communicator = self.run_against(self.listening.listen(self.server))
            await self.server.until(lambda: self.server.contacts)
            for number in range(250):
                self.link.outbox.submit(_message(str(number), priority=number % 3))
            self.communicators.remove(communicator)
            await communicator.stop()
            self.assertEqual(len({message.message_type for message in self.server.messages}), 250)
            self.assertFalse(any(self.link.outbox.pending(priority)[0] for priority in (0, 1, 2)))

        return Deferred.fromCoroutine(run())


class _Silent(Protocol):
    def __init__(self, connected: list[Deferred[None]]) -> None:
        self._connected = connected

    def connectionMade(self) -> None:
        waiting = [deferred for deferred in self._connected if not deferred.called]
        if waiting:
            waiting[0].callback(None)


class PollingLoopbackTests(_Both, LoopbackTestCase):
    kind = PollingCommunicator

    def test_polls_share_a_connection(self) -> Deferred[None]:
        async def run() -> None:
            self.run_against(self.listening.listen(self.server))
            for number in range(3):
                self.link.outbox.submit(_message(str(number)))
                await self.server.until(lambda number=number: len(self.server.messages) > number)  # type: ignore[misc]
            self.assertEqual(self.server.connections, 1)

        return Deferred.fromCoroutine(run())


class StreamingLoopbackTests(_Both, LoopbackTestCase):
    kind = StreamingCommunicator

    def test_items_68_75_the_request_is_as_upstreams_server_wants_it(self) -> Deferred[None]:
        """Chunked, to be closed, magic first; one request; alone in its record, with the tokens and no nonce.

        Compressed it is one zlib stream, with a sync flush behind each record.
        """

        async def run() -> None:
            self.link.flow.add_service("NOOPService")
            address = self.listening.listen(self.server)
            for compression in (common.COMPRESSION_NONE, common.COMPRESSION_DEFLATE):
                self.server.requests.clear()
                self.link.nonce = 0
                acked: Deferred[None] = Deferred()
                self.link.outbox.submit(_message(), lambda acked=acked: acked.callback(None))  # type: ignore[misc]
                self.run_against(address, compression=compression)
                await acked
                self.link.outbox.submit(_message("second"))
                await self.server.until(lambda: len(self.server.contacts) == 2)
                [request] = self.server.requests
                self.assertEqual(request.line, "POST /streaming-message HTTP/1.1")
                self.assertEqual(request.headers["connection"], "close")
                self.assertEqual(request.headers["transfer-encoding"], "chunked")
                first = request.contacts[0]
                self.assertEqual([message.message_type for message in first.messages], ["m"])
                self.assertEqual((first.sequencing_nonce, first.AllowedMessages["NOOPService"]), (0, 100))
                plain = b"".join(request.chunks)
                if compression:
                    self.assertEqual([chunk[-4:].hex() for chunk in request.chunks], ["0000ffff"] * 2)
                    plain = zlib.decompressobj().decompress(plain)
                self.assertEqual(plain[:4].hex(), "0110eef1")
                await self.communicators.pop().stop()

        return Deferred.fromCoroutine(run())

    def test_a_stop_ends_the_body_in_order(self) -> Deferred[None]:
        """Of a compressed one, the end of the zlib stream as well."""

        async def run() -> None:
            address = self.listening.listen(self.server)
            for compression in (common.COMPRESSION_NONE, common.COMPRESSION_DEFLATE):
                communicator = self.run_against(address, compression=compression)
                acked: Deferred[None] = Deferred()
                self.link.outbox.submit(_message(), lambda acked=acked: acked.callback(None))  # type: ignore[misc]
                await acked
                self.communicators.remove(communicator)
                await communicator.stop()
                await self.server.until(lambda: self.server.requests[-1].is_complete)

        return Deferred.fromCoroutine(run())

    def test_messages_travel_both_ways_at_once(self) -> Deferred[None]:
        """Upstream's client collects for a second; ours does not wait when it is idle."""

        async def run() -> None:
            self.run_against(self.listening.listen(self.server))
            await self.server.until(lambda: bool(self.server.streams))
            began = time.monotonic()
            for number in range(20):
                acked: Deferred[None] = Deferred()
                self.link.outbox.submit(_message(str(number)), lambda acked=acked: acked.callback(None))  # type: ignore[misc]
                await acked
            self.assertLess(time.monotonic() - began, 2)
            self.assertEqual(len(self.server.requests[0].contacts), 21)

        return Deferred.fromCoroutine(run())

    def test_item_74_a_reset_makes_a_new_stream(self) -> Deferred[None]:
        async def run() -> None:
            communicator = self.run_against(self.listening.listen(self.server))
            await self.server.until(lambda: bool(self.server.streams))
            communicator.reset()
            await self.server.until(lambda: len(self.server.requests) == 2)

        return Deferred.fromCoroutine(run())
