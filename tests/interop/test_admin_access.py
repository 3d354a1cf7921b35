"""Upstream's programs, which speak plaintext and present nothing, beside TLS on our admin port."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import TestCase

import grpc

from fleetspeak import rpc
from fleetspeak.pb import common, operator
from fleetspeak.testing.wireclient import Identity
from tests.fleet.server import SmallServer
from tests.programs import free_port
from tests.server.admin.authority import Authority

from .fleet import UPSTREAM
from .operators import Operator


class SecuredServer(SmallServer):
    def command_line(self) -> list[str | Path]:
        return [*super().command_line(), f"--admin-access={self.folder / 'access'}"]


class LocalPlaintextTests(TestCase):
    """Its fleetspeak-admin and its connector, unchanged."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fs-"))  # short, for a socket is in it
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = Authority(self.folder)
        self.authority.write_server()
        self.server = SecuredServer(self.folder, 'services { name: "sink" factory: "NOOP" }')
        self.addCleanup(self.server.clean_up)
        self.local, self.socket = f"localhost:{free_port()}", f"unix:{self.folder / 'admin.sock'}"

    def start(self, role: str) -> None:
        (self.folder / "access").write_text(
            f"""
            tls {{ certificate_file: "server.pem" key_file: "server-key.pem" client_ca_file: "operators-ca.pem" }}
            caller {{ name: "alice" role: ADMIN certificate: "CN:alice" }}
            local_plaintext {{ role: {role} address: "{self.local}" }}
            unix_socket {{ path: "{self.folder / "admin.sock"}" role: VIEWER }}
            """
        )
        self.server.start()
        self.identity = Identity.make()
        with self.server.connect(self.identity) as connection:
            connection.poll(common.ContactData())

    def run_tool(self, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [UPSTREAM.program("fleetspeak-admin"), f"-admin_addr={address}", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    def test_fleetspeak_admin(self) -> None:
        self.start("VIEWER")
        client_id = self.identity.client_id.hex()
        for address in (self.local, self.socket):
            listed = self.run_tool(address, "listclients")
            self.assertIn(client_id, listed.stdout.lower())
            refused = self.run_tool(address, "blacklistclients", client_id)
            self.assertEqual(refused.returncode, 1)
            said = refused.stdout + refused.stderr
            self.assertIn("anonymous is a viewer; fleetspeak.server.Admin/BlacklistClient needs role operator", said)

    def test_the_connector(self) -> None:
        self.start("OPERATOR")
        services = {"sink": f"localhost:{free_port()}"}
        program = Operator("upstream operator", UPSTREAM.python(), self.local, services)
        self.addCleanup(program.stop)
        self.assertEqual(program.clients([]), {self.identity.client_id})
        program.send("sink", self.identity.client_id, "hello", common.EmptyMessage())
        self.assertEqual(program.pending([self.identity.client_id]), 1)
        credentials = grpc.ssl_channel_credentials(self.authority.pem, *self.authority.client("alice"))
        with grpc.secure_channel(self.server.admin_address, credentials) as channel:
            stub = rpc.operator.OperatorStub(channel)
            [entry] = stub.ListAuditEntries(operator.ListAuditEntriesRequest(), timeout=30).entries
        self.assertEqual(
            (entry.caller, entry.role, entry.method, entry.outcome),
            ("anonymous", "operator", "fleetspeak.server.Admin/InsertMessage", "OK"),
        )
