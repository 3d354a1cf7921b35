"""Our Socket service as the partner of a connector."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from fleetspeak.client.services.socket import SocketFactory, SocketService
from fleetspeak.client.sockets.connection import Limits
from fleetspeak.pb import common, socket_config
from tests.client.process.children import context, until


class ServiceCase(TestCase):
    """Has a Socket service in the reactor of the test; what it is sent is in `self.context.sent`."""

    timeout = 30

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "made" / "socket")
        self.context = context()
        self.services: list[SocketService] = []

    def serve(self) -> SocketService:
        """Start the service (again)."""
        config = socket_config.Config(api_proxy_path=self.path, disable_resource_monitoring=True)
        service = SocketFactory(Limits(linger=0.3, ack_period=0.02)).make(config, self.context)
        assert isinstance(service, SocketService)
        service.start()
        self.services.append(service)
        self.addCleanup(service.stop)
        return service

    def types(self) -> list[str]:
        """Of what the process has sent."""
        return [sent.message_type for sent in self.context.sent]

    async def sent(self, *types: str) -> None:
        """Wait until the process has sent messages of these types, and forget them."""
        await until(lambda: len(self.context.sent) >= len(types))
        self.assertEqual(list(types), self.types())
        self.context.sent.clear()

    def process(self, service: SocketService, message: common.Message) -> Deferred[None]:
        """As the inbox does it."""
        return Deferred.fromCoroutine(service.process(message))

    def occupy(self) -> Any:
        """Make a file where the socket would be."""
        os.mkdir(os.path.dirname(self.path), 0o700)
        Path(self.path).write_text("")


def to_server(message_type: str, **fields: Any) -> common.Message:
    """A message of a process to the server."""
    return common.Message(message_type=message_type, destination=common.Address(service_name="ServerSide"), **fields)
