"""A real server of ours with one client, and the tool."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.pb import common
from fleetspeak.testing.wireclient import Connection, Identity
from tests.fleet.server import SmallServer

from .doubles import Outcome, run_tool

NOOP = 'services { name: "greeter" factory: "NOOP" }'


class RealServerCase(SynchronousTestCase):
    """Each test has its own, and its folder as working directory."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fleetspeak-admin-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.server = SmallServer(self.folder, NOOP)
        self.addCleanup(self.server.clean_up)
        self.server.start()
        self.identity = Identity.make()
        self.contact(self.identity, "linux")
        self.client_id = self.identity.client_id.hex()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)

    def connect(self, identity: Identity) -> Connection:
        trusted = (self.folder / "fleetspeak-ca.pem").read_text()
        return Connection(("localhost", self.server.https_port), trusted, identity)

    def contact(self, identity: Identity, *labels: str) -> common.ContactData:
        """Raises RefusedError."""
        with self.connect(identity) as connection:
            return connection.poll(common.ContactData(), labels)

    def run_tool(self, *words: str) -> Outcome:
        return run_tool(f"-admin_addr={self.server.admin_address}", *words)

    def succeed(self, *words: str) -> str:
        """What it prints."""
        outcome = self.run_tool(*words)
        self.assertEqual((outcome.status, outcome.err), (0, ""), words)
        return outcome.out.strip()

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """What it prints for programs."""
        return [json.loads(line) for line in self.succeed(*words, "--json").splitlines()]
