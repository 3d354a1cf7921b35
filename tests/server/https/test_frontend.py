"""The frontend on real sockets, with real TLS."""

from __future__ import annotations

import dataclasses
import datetime
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from fleetspeak import ids
from fleetspeak.config.server import ServerSettings
from fleetspeak.errors import ConfigError
from fleetspeak.pb import common
from fleetspeak.security import certificates, keys
from fleetspeak.security.tls import ClientTlsPolicy
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.files import Files, StoredFiles
from fleetspeak.server.https.frontend import HttpsFrontend
from fleetspeak.wire import streamframes
from tests.server.contact.world import Gatekeeper, World, for_client, from_client, id_of, wrapped
from tests.server.https.wire import acks, record, stream_start

POLL = b"POST /message HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
STREAM = (
    b"POST /streaming-message HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Client(Protocol):
    """Collects what comes, until a test has seen enough of it."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()
        self._awaited: tuple[bytes, Deferred[bytes]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost.callback(None)

    def until(self, text: bytes) -> Deferred[bytes]:
        """Fires with everything, once `text` is in it."""
        found: Deferred[bytes] = Deferred()
        self._awaited = (text, found)
        self._look()
        return found.addTimeout(10, reactor)

    def _look(self) -> None:
        if self._awaited is not None and self._awaited[0] in self.received:
            (_, found), self._awaited = self._awaited, None
            found.callback(self.received)


@implementer(IOpenSSLClientConnectionCreator)
class OddTls:
    """A client that presents as many certificates as it likes."""

    def __init__(self, chain: Sequence[x509.Certificate] = (), key: Any = None) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        if chain:
            self._context.use_privatekey(key)
            self._context.use_certificate(chain[0])
            for other in chain[1:]:
                self._context.add_extra_chain_cert(other)

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context)


class FrontendTests(TestCase):
    timeout = 30
    authority: ClassVar[Any]
    settings: ClassVar[ServerSettings]

    @classmethod
    def setUpClass(cls) -> None:
        now = time.time()
        cls.authority, authority_key = certificates.make_authority("test", now)
        certificate, key = certificates.issue_server(cls.authority, authority_key, "test", ["localhost"], now)
        cls.settings = ServerSettings(
            database_path=Path("unused"),
            https_address=("127.0.0.1", 0),
            certificate_chain=certificates.to_pem(certificate),
            key=certificates.key_to_pem(key),
        )

    async def setUp(self) -> None:
        self.gatekeeper = Gatekeeper()
        self.world = World(self.gatekeeper)
        self.key = keys.generate()
        der = keys.public_der(self.key)
        self.identity = Identity(der, ids.client_id_of_key(der))
        self.certificate = certificates.client_certificate(self.key, self.identity.client_id, time.time())
        self.clients: list[Client] = []
        await self.open(self.settings)

    async def open(self, settings: ServerSettings) -> None:
        files = Files(StoredFiles(self.world.store))
        self.frontend = HttpsFrontend(self.world.contacts, self.gatekeeper, settings, reactor, files=files)
        self.port: int = (await self.frontend.open()).port  # type: ignore[attr-defined]
        self.addCleanup(self.close, self.frontend)

    async def close(self, frontend: HttpsFrontend) -> None:
        for client in self.clients:
            client.transport.loseConnection()
        await frontend.drain_and_close()
        for client in self.clients:
            await client.lost

    async def connect(self, tls: Any = None, endpoint: Any = None) -> Client:
        if tls is None:
            policy = ClientTlsPolicy([self.authority], self.key, self.certificate)
            tls = policy.creatorForNetloc(b"localhost", self.port)
        plain = endpoint or TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        client = Client()
        await connectProtocol(wrapClientTLS(tls, plain), client)
        self.clients.append(client)
        return client

    async def poll(self, client: Client, data: common.WrappedContactData | None = None) -> bytes:
        body = (data or wrapped()).SerializeToString()
        client.transport.write(POLL % (len(body), body))
        return await client.until(b"\r\n\r\n")

    async def start_stream(self) -> Client:
        client = await self.connect()
        self.chunk(client, stream_start(wrapped()), STREAM)
        await client.until(b"200 OK")
        return client

    def chunk(self, client: Client, data: bytes, head: bytes = b"") -> None:
        client.transport.write(head + b"%x\r\n%s\r\n" % (len(data), data))

    async def test_poll(self) -> None:
        client = await self.connect()
        answer = await self.poll(client, wrapped(from_client()))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertEqual(len(self.world.stored(id_of(from_client(), self.identity.client_id))), 1)
        (listed,) = self.world.now(self.world.store.list_clients([self.identity.client_id]))
        self.assertEqual(listed.last_contact_address, f"127.0.0.1:{client.transport.getHost().port}")
        self.assertEqual(self.frontend_socket_options(), [1, 1, 60])

    def frontend_socket_options(self) -> list[int]:
        (channel,) = self.frontend._site._channels
        accepted: socket.socket = channel.transport.transport.socket
        return [
            accepted.getsockopt(level, option)
            for level, option in (
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            )
        ]

    async def test_no_certificate(self) -> None:
        answer = await self.poll(await self.connect(OddTls()))
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "))
        self.assertIn(b"expected 1 client cert, received 0", answer)

    async def test_files_are_for_clients(self) -> None:
        """server-https.md 5, authorization, which is on unless a components file says otherwise."""
        self.world.now(self.world.store.store_file("system", "list", b"of some kind"))
        self.assertTrue(self.settings.file_authorization)
        for tls, status, body in ((OddTls(), b"401", b"unauthorized"), (None, b"200", b"of some kind")):
            answer = await self.get_file(tls, body)
            self.assertTrue(answer.startswith(b"HTTP/1.1 %s " % status), answer)
        await self.open(dataclasses.replace(self.settings, file_authorization=False))
        self.assertTrue((await self.get_file(OddTls(), b"of some kind")).startswith(b"HTTP/1.1 200 "))

    async def get_file(self, tls: Any, awaited: bytes) -> bytes:
        client = await self.connect(tls)
        client.transport.write(b"GET /files/system/list HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return await client.until(awaited)

    async def test_two_certificates(self) -> None:
        answer = await self.poll(await self.connect(OddTls([self.certificate, self.authority], self.key)))
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "))
        self.assertIn(b"expected 1 client cert, received 2", answer)

    async def test_an_expired_certificate_is_as_good_as_any(self) -> None:
        name = x509.Name([])
        expired = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.datetime(2001, 1, 1))
            .not_valid_after(datetime.datetime(2001, 1, 2))
            .sign(self.key, hashes.SHA256())
        )
        answer = await self.poll(await self.connect(OddTls([expired], self.key)))
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 "))
        self.assertIn(self.identity.client_id, self.world.now(self.world.store.client_data([self.identity.client_id])))

    async def test_refused_at_accept(self) -> None:
        """server-https.md 1: on refusal the TCP connection is closed without a byte."""
        self.gatekeeper.refuse = {"connection"}
        client = Client()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), client)
        await client.lost
        self.assertEqual(client.received, b"")
        (stage, address) = self.gatekeeper.told[0]
        self.assertEqual((stage, address.split(":")[0]), ("connection", "127.0.0.1"))

    async def test_garbage_in_place_of_a_handshake(self) -> None:
        client = Client()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), client)
        client.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        await client.lost
        self.assertNotIn(b"HTTP", client.received)
        self.assertTrue((await self.poll(await self.connect())).startswith(b"HTTP/1.1 200 "))

    async def test_stream(self) -> None:
        client = await self.start_stream()
        self.chunk(client, record(wrapped(from_client())))
        self.world.insert(for_client(self.identity.client_id))
        await client.until(b"for client 1")
        self.chunk(client, b"")
        await client.lost
        self.assertEqual(acks(self.records(client)), [1])

    def records(self, client: Client) -> list[common.ContactData]:
        _, _, rest = client.received.partition(b"\r\n\r\n")
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        decoder = streamframes.Decoder(streamframes.MAX_SERVER_RECORD)
        return [common.ContactData.FromString(one) for one in decoder.feed(body)]

    async def test_stop_drains(self) -> None:
        client = await self.start_stream()
        stopping = Deferred.fromCoroutine(self.frontend.drain_and_close())
        await client.until(common.ContactData(done_sending=True).SerializeToString())
        self.chunk(client, record(wrapped(from_client())))
        self.chunk(client, b"")
        await client.lost
        await stopping
        self.assertEqual(acks(self.records(client)), [1])
        refused = connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), Client())
        await self.assertFailure(refused, Exception)

    async def test_stop_closes_idle_connections(self) -> None:
        client = await self.connect()
        await self.poll(client)
        await self.frontend.drain_and_close()
        await client.lost

    async def test_the_port_is_taken(self) -> None:
        taken = ServerSettings(
            database_path=Path("unused"),
            https_address=("127.0.0.1", self.port),
            certificate_chain=self.settings.certificate_chain,
            key=self.settings.key,
        )
        second = HttpsFrontend(self.world.contacts, self.gatekeeper, taken, reactor)
        error = await self.assertFailure(Deferred.fromCoroutine(second.open()), ConfigError)
        self.assertIn(f"failed to listen on [127.0.0.1:{self.port}]", str(error))

    async def test_a_port_that_is_shared(self) -> None:
        """By those that all want to; whoever does not is kept from it."""
        for host in ("127.0.0.1", "::1", ""):
            shared = replace(self.settings, https_address=(host, 0), share_port=True)
            await self.open(shared)
            await self.open(replace(shared, https_address=(host, self.port)))
            alone = HttpsFrontend(
                self.world.contacts, self.gatekeeper, replace(self.settings, https_address=(host, self.port)), reactor
            )
            with self.assertRaises(ConfigError):
                await alone.open()

    async def test_all_addresses(self) -> None:
        """server-https.md 1: an empty host means all addresses, IPv4 and IPv6."""
        everywhere = ServerSettings(
            database_path=Path("unused"),
            https_address=("", 0),
            certificate_chain=self.settings.certificate_chain,
            key=self.settings.key,
        )
        await self.open(everywhere)
        await self.poll(await self.connect())
        (listed,) = self.world.now(self.world.store.list_clients([self.identity.client_id]))
        self.assertTrue(listed.last_contact_address.startswith("127.0.0.1:"))
        if socket.has_ipv6 and self.has_ipv6_loopback():
            await self.poll(await self.connect(endpoint=TCP6ClientEndpoint(reactor, "::1", self.port)))
            (listed,) = self.world.now(self.world.store.list_clients([self.identity.client_id]))
            self.assertTrue(listed.last_contact_address.startswith("[::1]:"))

    @staticmethod
    def has_ipv6_loopback() -> bool:
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            return False
        return True
