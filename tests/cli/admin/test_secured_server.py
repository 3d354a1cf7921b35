"""Against our server with TLS, client certificates, tokens and roles, as operators have it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli import admin_token
from fleetspeak.testing.wireclient import Identity
from tests.fleet.server import SmallServer
from tests.server.admin.authority import Authority

from .doubles import Outcome, run_tool


class SecuredServer(SmallServer):
    """With an access file."""

    def command_line(self) -> list[str | Path]:
        return [*super().command_line(), f"--admin-access={self.folder / 'access'}"]


class SecuredServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fleetspeak-admin-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.authority = Authority(self.folder)
        self.authority.write_server()
        key, certificate = self.authority.client("alice")
        (self.folder / "alice.pem").write_bytes(certificate)
        (self.folder / "alice-key.pem").write_bytes(key)

    def serve(self, tls: str, *tokens: str) -> None:
        """With callers that have tokens, each of the role of its name."""
        path = self.folder / "access"
        path.touch(0o600)
        path.write_text(
            f'tls {{ certificate_file: "server.pem" key_file: "server-key.pem" {tls} }}\n'
            + ('caller { name: "alice" role: ADMIN certificate: "CN:alice" }\n' if tls else "")
        )
        for role in tokens:
            words = ["--access", str(path), "--token-file", str(self.token(role)), "--role", role]
            self.assertEqual(admin_token.main([f"{role}-program", *words]), 0)
        self.server = SecuredServer(self.folder, "")
        self.addCleanup(self.server.clean_up)
        self.server.start()

    def token(self, role: str) -> Path:
        return self.folder / f"{role}.token"

    def run_tool(self, *words: str) -> Outcome:
        return run_tool(f"-admin_addr={self.server.admin_address}", f"--tls-ca={self.authority.path}", *words)

    def succeed(self, *words: str) -> str:
        outcome = self.run_tool(*words)
        self.assertEqual((outcome.status, outcome.err), (0, ""))
        return outcome.out

    def fail_to(self, *words: str) -> str:
        outcome = self.run_tool(*words)
        self.assertEqual((outcome.status, outcome.out), (1, ""))
        return outcome.err

    def test_tokens_and_roles(self) -> None:
        self.serve("", "viewer", "operator", "admin")
        viewer, operator, admin = (f"--token-file={self.token(role)}" for role in ("viewer", "operator", "admin"))
        self.assertEqual(self.succeed(viewer, "listclients"), "No clients found.\n")
        self.assertIn("viewer-program, with role viewer, from 127.0.0.1:", self.succeed(viewer, "whoami"))
        err = self.fail_to(viewer, "broadcasts", "create", "--from", "greeter")
        self.assertIn("viewer-program is a viewer; fleetspeak.server.Admin/CreateBroadcast needs role operator", err)
        self.assertIn("viewers may read", err)
        broadcast_id = self.succeed(operator, "broadcasts", "create", "--from", "greeter").strip()
        self.assertIn(broadcast_id, self.succeed(viewer, "broadcasts", "list"))
        self.assertIn("needs role admin", self.fail_to(operator, "audit", "list"))
        trail = self.succeed(admin, "audit", "export")
        self.assertIn('"caller": "operator-program"', trail)
        self.assertIn('"outcome": "PERMISSION_DENIED"', trail)
        unknown = self.folder / "unknown.token"
        unknown.touch(0o600)
        unknown.write_text("nobodys-token")
        self.assertIn(
            "the server does not know what -token_file", self.fail_to(f"--token-file={unknown}", "listclients")
        )
        self.assertIn("the server wants to know who asks: -token_file", self.fail_to("listclients"))
        for path in (self.token("viewer"), unknown):
            self.assertNotIn(path.read_text().strip(), trail + err)

    def test_a_client_certificate(self) -> None:
        self.serve('client_ca_file: "operators-ca.pem"')
        alice = (f"--tls-cert={self.folder}/alice.pem", f"--tls-key={self.folder}/alice-key.pem")
        self.assertIn("Enrolment is closed.", self.succeed(*alice, "enrolment", "close"))
        self.assertIn("alice, with role admin", self.succeed(*alice, "whoami"))
        self.assertIn('"caller": "alice"', self.succeed(*alice, "audit", "export"))
        self.assertIn("does it want a client certificate? -tls_cert", self.fail_to("listclients"))

    def test_without_tls(self) -> None:
        self.serve("", "viewer")
        outcome = run_tool(f"-admin_addr={self.server.admin_address}", "listclients")
        self.assertIn("want TLS? -tls_ca FILE", outcome.err)

    def test_a_client_that_is_enrolled_by_hand(self) -> None:
        self.serve("", "admin")
        identity = Identity.make()
        path = self.folder / "client.pem"
        path.write_text(identity.certificate_and_key)
        token = f"--token-file={self.token('admin')}"
        self.assertEqual(self.succeed(token, "enrolment", "enrol", str(path)), f"{identity.client_id.hex()}\n")
        self.assertIn(identity.client_id.hex(), self.succeed(token, "clients", "list"))
