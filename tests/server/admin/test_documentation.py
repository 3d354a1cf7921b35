"""What doc/operating.md says about the admin port works as it is written there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import grpc
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fleetspeak import rpc
from fleetspeak.config.adminaccess import read_access
from fleetspeak.core.adminaccess import Role
from fleetspeak.pb import common
from fleetspeak.server.admin.served import Served
from fleetspeak.server.admin.server import AdminServer
from tests.programs import require_on_path
from tests.server.admin.case import ADMIN
from tests.server.admin.test_access import Everything

TEXT = (Path(__file__).resolve().parents[3] / "doc" / "operating.md").read_text()


class DocumentationTests(TestCase):
    def setUp(self) -> None:
        """Carry the commands out, and write the access file."""
        require_on_path("openssl", "install the Debian package openssl")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        commands = re.search(r"```sh operators-authority\n(.*?)```", TEXT, re.DOTALL)
        example = re.search(r"```\n(tls \{.*?)```", TEXT, re.DOTALL)
        assert commands is not None
        assert example is not None
        subprocess.run(["sh", "-euc", commands[1]], cwd=self.folder, check=True, capture_output=True)
        self.text = example[1].replace('"5e88..."', f'"{"5e" * 32}"').replace(":6062", "127.0.0.1:0")
        self.access = self.folder / "admin.access"
        self.access.write_text(self.text)

    def test_the_access_file(self) -> None:
        settings = read_access(self.access)
        self.assertEqual(
            [(one.name, one.role) for one in settings.callers], [("alice", Role.ADMIN), ("grr", Role.OPERATOR)]
        )
        self.assertEqual(settings.local_address, ("localhost", 6063))

    async def test_the_certificates(self) -> None:
        self.access.write_text("\n".join(line for line in self.text.splitlines() if "run/" not in line))
        settings = replace(read_access(self.access), local_address=None)
        server = AdminServer([Served(ADMIN, [Everything(ADMIN)])], "127.0.0.1", 0, reactor, access=settings)
        server.start()
        self.addCleanup(server.stop)
        files = [(self.folder / name).read_bytes() for name in ("operators-ca.pem", "alice-key.pem", "alice.pem")]
        address = server.address.replace("127.0.0.1", "localhost")
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*files))
        self.addCleanup(deferToThread, channel.close)
        await deferToThread(rpc.admin.AdminStub(channel).KeepAlive, common.EmptyMessage(), timeout=30)
