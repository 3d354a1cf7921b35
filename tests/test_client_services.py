"""doc/client-services.md: its programs, run as it says, by our client's services."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import text_format
from google.protobuf.wrappers_pb2 import StringValue
from twisted.trial.unittest import TestCase

from fleetspeak.client.services.daemon import DaemonFactory
from fleetspeak.client.services.socket import SocketFactory
from fleetspeak.pb import daemon_config, socket_config, system
from tests.client.process.children import context, message, until
from tests.programs import Program

PAGE = Path(__file__).resolve().parents[1] / "doc" / "client-services.md"
BLOCKS = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
SOCKET = "/run/hello/socket"


class ClientServicesTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.context = context("hello")

    def write(self, name: str, **replaced: str) -> Path:
        path = self.folder / name
        path.write_text(BLOCKS[name].replace(SOCKET, self.socket))
        return path

    @property
    def socket(self) -> str:
        return str(self.folder / "run" / "socket")

    def config(self, name: str, kind: Any) -> Any:
        """The configuration of a service file of the page."""
        parsed = text_format.Parse(BLOCKS[name].replace(SOCKET, self.socket), system.ClientServiceConfig())
        config = kind()
        self.assertTrue(parsed.config.Unpack(config))
        return config

    async def assert_greets(self, service: Any) -> None:
        self.addCleanup(service.stop)
        request = message("Name")
        request.data.Pack(StringValue(value="operator"))
        await service.process(request)
        await until(lambda: self.context.sent, 30)
        greeting = StringValue()
        self.assertTrue(self.context.sent[0].data.Unpack(greeting))
        self.assertEqual("Hello operator!", greeting.value)
        await service.stop()

    async def daemon(self, name: str) -> None:
        config = self.config("daemon.service", daemon_config.Config)
        config.argv[:] = [sys.executable, str(self.write(name))]
        service = DaemonFactory().make(config, self.context)
        service.start()
        await self.assert_greets(service)

    async def over_a_socket(self, name: str) -> None:
        self.context.spooled = True
        program = Program(name, [sys.executable, self.write(name)])
        self.addCleanup(program.make_sure_it_ended)
        service = SocketFactory().make(self.config("socket.service", socket_config.Config), self.context)
        service.start()
        await self.assert_greets(service)

    async def test_blocking_daemon(self) -> None:
        await self.daemon("daemon.py")

    async def test_asyncio_daemon(self) -> None:
        await self.daemon("daemon_aio.py")

    async def test_twisted_daemon(self) -> None:
        await self.daemon("daemon_tx.py")

    async def test_blocking_over_a_socket(self) -> None:
        await self.over_a_socket("socket_blocking.py")

    async def test_asyncio_over_a_socket(self) -> None:
        await self.over_a_socket("socket_aio.py")

    async def test_twisted_over_a_socket(self) -> None:
        await self.over_a_socket("socket_tx.py")
