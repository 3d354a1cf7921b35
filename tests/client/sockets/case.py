"""A Socket service in the reactor of the test, and processes that connect to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from fleetspeak.client.services.socket import SocketFactory, SocketService
from fleetspeak.client.sockets.connection import Limits
from fleetspeak.client.stats import Stats
from fleetspeak.interfaces import IClientStats
from fleetspeak.pb import common, socket_config
from tests.client.process.children import context, until
from tests.client.sockets.peer import Peer, connect

QUICK = Limits(linger=0.3)


@implementer(IClientStats)
@dataclass
class Counter:
    """Keeps what `socket_closed` was told."""

    closed: list[Exception | None] = field(default_factory=list)

    def socket_closed(self, service: str, error: Exception | None) -> None:
        self.closed.append(error)


class SocketCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = str(self.folder / "made" / "socket")
        self.context = context()
        self.counter = Counter()
        self.context.stats = Stats([self.counter])  # type: ignore[list-item]

    def make(self, limits: Limits = QUICK, **config: Any) -> SocketService:
        made = SocketFactory(limits).make(socket_config.Config(**{"api_proxy_path": self.path} | config), self.context)
        assert isinstance(made, SocketService)
        return made

    def service(self, limits: Limits = QUICK) -> SocketService:
        """An installed and started service."""
        service = self.make(limits)
        service.start()
        self.addCleanup(service.stop)
        return service

    async def peer(self) -> Peer:
        """A process that has connected and keeps to the protocol."""
        peer = await connect(self.path)
        self.addCleanup(peer.close)
        peer.begin()
        return peer

    async def ready_peer(self) -> Peer:
        """The same, once the service talks to it."""
        peer = await self.peer()
        await until(lambda: peer.raw)
        return peer

    def process(self, service: SocketService, sent: common.Message) -> Deferred[None]:
        """As the inbox does it."""
        return Deferred.fromCoroutine(service.process(sent))
