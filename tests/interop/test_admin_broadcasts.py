"""Upstream's fleetspeak-admin lists and disables the broadcasts of our server."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import TestCase

from fleetspeak.pb import admin
from fleetspeak.records import UNLIMITED
from tests.fleet.server import SmallServer

from .fleet import UPSTREAM


class AdminToolTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.server = SmallServer(self.folder, "")
        self.addCleanup(self.server.clean_up)
        self.server.start()

    def run_tool(self, *arguments: str) -> str:
        argv = [UPSTREAM.program("fleetspeak-admin"), f"-admin_addr={self.server.admin_address}", *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout

    def test_broadcasts(self) -> None:
        """server-core.md 12.2: listactivebroadcasts and disablebroadcasts."""
        self.assertIn("No active broadcasts found.", self.run_tool("listactivebroadcasts"))
        request = admin.CreateBroadcastRequest(limit=UNLIMITED)
        request.broadcast.broadcast_id = bytes.fromhex("0123456789abcdef")
        request.broadcast.source.service_name = "greeter"
        request.broadcast.message_type = "Greeting"
        self.server.admin().CreateBroadcast(request, timeout=30)
        listed = self.run_tool("listactivebroadcasts", "greeter")
        self.assertIn("Found 1 active broadcasts.", listed)
        self.assertRegex(listed, r"0123456789abcdef\s+greeter\s+Greeting")
        self.assertIn("No active broadcasts found.", self.run_tool("listactivebroadcasts", "another"))
        self.assertIn("disable request for 1 broadcasts", self.run_tool("disablebroadcasts", "0123456789abcdef"))
        self.assertIn("No active broadcasts found.", self.run_tool("listactivebroadcasts"))
