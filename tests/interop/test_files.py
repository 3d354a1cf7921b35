"""File requests of both clients on both servers, over HTTP/1.1 and HTTP/2, on a line that breaks."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from fleetspeak.client.comms.http import Transport
from fleetspeak.client.comms.servers import ServerList
from fleetspeak.client.files import Files
from fleetspeak.client.stats import Stats
from fleetspeak.errors import FileUnavailable
from fleetspeak.pb import client as client_pb
from fleetspeak.pb import system
from fleetspeak.security.certificates import load_certificates
from fleetspeak.testing.clientside import FakeLink, client_settings
from tests.programs import eventually

from . import peer
from .fleet import OURS, STREAMING, STREAMING_HTTP2, UPSTREAM, Fleet, Kind
from .fleet import Transport as ClientTransport

LARGE = random.Random(1).randbytes(3_000_000)
NAME = "a name with spaces/and a slash"


class FilesCase(TestCase):
    """A server with a large file."""

    timeout = 60
    server_kind: ClassVar[Kind]
    fleet: ClassVar[Fleet]

    @classmethod
    def setUpClass(cls) -> None:
        cls.fleet = Fleet(OURS, (OURS,))
        cls.addClassCleanup(cls.fleet.clean_up)
        cls.server = cls.fleet.server(cls.server_kind)
        cls.server.start()
        cls.store("FRR", NAME, LARGE)

    @classmethod
    def store(cls, service: str, name: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            script = Path(__file__).with_name("scripts") / "store_file.py"
            address = cls.fleet.deployment.admin_address
            subprocess.run([peer.our_python(), script, address, service, name, file.name], check=True)

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.target = Path(folder.name) / "target"
        self.ports: list[Any] = []
        self.transports: list[Transport] = []
        self.relay = Relay(self.fleet.deployment.https_port)

    async def tearDown(self) -> None:
        for transport in self.transports:
            await transport.close()
        for port in self.ports:
            await port.stopListening()

    def files(self, *, http2: bool) -> Files:
        port = reactor.listenTCP(0, self.relay, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.ports.append(port)
        servers = [("localhost", port.getHost().port)]
        settings = client_settings(
            servers=servers,
            trusted_certs=tuple(load_certificates(self.fleet.deployment.trusted_pem)),
            communicator=client_pb.CommunicatorConfig(prefer_http2=http2),
        )
        transport = Transport(FakeLink(), settings, reactor)
        self.transports.append(transport)
        files = Files(
            ("linux",),
            Stats(),
            reactor,  # type: ignore[arg-type]
            lambda *call: deferToThreadPool(reactor, reactor.getThreadPool(), *call),  # type: ignore[attr-defined]
            20,
        )
        order = ServerList(servers)
        files.start(_Source(order, transport))
        return files

    async def fetch_over_a_line_that_breaks(self, *, http2: bool) -> None:
        files = self.files(http2=http2)
        self.relay.breaks = [1_000_000, 500_000]
        fetched = await files.fetch("FRR", NAME, self.target)
        self.assertEqual(self.target.read_bytes(), LARGE)
        self.assertEqual(self.relay.breaks, [])
        # Nothing came twice: what went over the line is the file and little more.
        self.assertLess(self.relay.passed, len(LARGE) + 300_000)
        assert fetched is not None
        assert fetched.modified is not None
        self.assertIsNone(await files.fetch("FRR", NAME, self.target, since=fetched.modified))
        with self.assertRaises(FileUnavailable) as caught:
            await files.fetch("FRR", "none", self.target)
        self.assertEqual(caught.exception.status, 404)

    def find_revoked(self, kind: Kind, transport: ClientTransport) -> None:
        """A list is stored; a client that starts then knows it."""
        listed = system.RevokedCertificateList(serials=[b"\x07"])
        self.store("system", "RevokedCertificates", listed.SerializeToString())
        machine = self.fleet.client(kind, f"{kind} revoking", transport)
        machine.start()
        eventually(lambda: machine.revoked() == [b"\x07"], "the serial number is in the state file")
        machine.stop()


class FilesFromUpstream(FilesCase):
    """Issue 3, point 5: file fetch to disk with If-Modified-Since and resume by Range after a break."""

    server_kind = UPSTREAM

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # It gives no ETag, and a date that is younger than a second tells no content from another.
        stored = time.time()
        eventually(lambda: time.time() > stored + 2, "the file is older than a second")

    async def test_over_http1(self) -> None:
        await self.fetch_over_a_line_that_breaks(http2=False)

    async def test_over_http2(self) -> None:
        await self.fetch_over_a_line_that_breaks(http2=True)

    def test_item_65_a_stored_list_of_revoked_serials_ends_up_in_the_state(self) -> None:
        self.find_revoked(OURS, STREAMING_HTTP2)


class FilesFromOurs(FilesCase):
    """Issue 4, point 4: files stored by the admin API, served with ranges and conditions."""

    server_kind = OURS

    async def test_resume_by_range_after_a_break(self) -> None:
        await self.fetch_over_a_line_that_breaks(http2=False)

    async def test_a_client_that_prefers_http2(self) -> None:
        await self.fetch_over_a_line_that_breaks(http2=True)

    def test_our_client_learns_of_revoked_certificates(self) -> None:
        self.find_revoked(OURS, STREAMING)

    def test_the_upstream_client_learns_of_revoked_certificates(self) -> None:
        self.find_revoked(UPSTREAM, STREAMING)


class _Source:
    def __init__(self, order: ServerList, transport: Transport) -> None:
        self.servers = order.order
        self.get = transport.get


class Relay(Factory):
    """Passes bytes on to a server, and breaks connections after so many bytes from it."""

    noisy = False

    def __init__(self, port: int) -> None:
        self.port = port
        self.breaks: list[int] = []
        self.passed = 0

    def buildProtocol(self, addr: Any) -> Any:
        return _Near(self)


class _Near(Protocol):
    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.far: _Far | None = None

    def connectionMade(self) -> None:
        self.transport.pauseProducing()  # type: ignore[union-attr]
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.relay.port)
        endpoint.connect(Factory.forProtocol(lambda: _Far(self)))

    def dataReceived(self, data: bytes) -> None:
        if self.far is not None and self.far.transport is not None:
            self.far.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.far is not None and self.far.transport is not None:
            self.far.transport.abortConnection()


class _Far(Protocol):
    def __init__(self, near: _Near) -> None:
        self.near = near
        self.left = near.relay.breaks[0] if near.relay.breaks else None

    def connectionMade(self) -> None:
        self.near.far = self
        self.near.transport.resumeProducing()  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.near.relay.passed += len(data)
        self.near.transport.write(data)  # type: ignore[union-attr]
        if self.left is not None:
            self.left -= len(data)
            if self.left <= 0:
                self.left = None
                self.near.relay.breaks.pop(0)
                self.near.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.near.transport.loseConnection()  # type: ignore[union-attr]
