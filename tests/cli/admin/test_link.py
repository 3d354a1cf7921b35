"""The way to the server: TLS, certificates, tokens, waiting, and errors that help."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import grpc
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.admin import link
from fleetspeak.pb import admin
from tests.programs import free_port
from tests.server.admin.authority import Authority

from .doubles import FakeServer, Outcome, ToolTestCase, refuse, run_tool

TOKEN = "s3cret-token"


class TlsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.authority = Authority(self.folder)
        self.server = FakeServer()

    def serve(self, *, client_certificates: bool = False, name: str = "localhost") -> None:
        certificate, key = self.authority.write_server(hosts=[name])
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates=self.authority.pem if client_certificates else None,
            require_client_auth=client_certificates,
        )
        self.server.start(credentials)
        self.addCleanup(self.server.stop)

    def run_tool(self, *words: str) -> Outcome:
        return run_tool(f"-admin_addr=localhost:{self.server.port}", "--timeout=30", *words)

    def succeed(self, *words: str) -> None:
        outcome = self.run_tool(*words, "listclients")
        self.assertEqual((outcome.status, outcome.out), (0, "No clients found.\n"), outcome.err)

    def fail_to(self, *words: str) -> str:
        outcome = self.run_tool(*words, "listclients")
        self.assertEqual((outcome.status, outcome.out), (1, ""))
        return outcome.err

    def test_the_servers_certificate_is_verified(self) -> None:
        self.serve()
        self.succeed(f"--tls-ca={self.authority.path}")
        other = Authority(self.folder, "other")
        self.assertIn("is not by an authority of -tls_ca", self.fail_to(f"--tls-ca={other.path}"))
        self.assertIn("is not by an authority of -tls_ca", self.fail_to("--tls"))

    def test_its_name_is_verified(self) -> None:
        self.serve(name="fleet.example")
        trusted = f"--tls-ca={self.authority.path}"
        self.assertIn("or is for another name", self.fail_to(trusted))
        self.succeed(trusted, "--tls-server-name=fleet.example")

    def test_a_server_with_tls_is_asked_in_plaintext(self) -> None:
        self.serve()
        self.assertIn("want TLS? -tls_ca FILE", self.fail_to())

    def test_a_server_without_tls_is_asked_for_it(self) -> None:
        self.server.start()
        self.addCleanup(self.server.stop)
        self.assertIn("does not speak TLS", self.fail_to("--tls"))

    def test_a_client_certificate(self) -> None:
        self.serve(client_certificates=True)
        key, certificate = self.authority.client("alice")
        (self.folder / "alice-key.pem").write_bytes(key)
        (self.folder / "alice.pem").write_bytes(certificate)
        trusted = f"--tls-ca={self.authority.path}"
        words = (f"--tls-cert={self.folder}/alice.pem", f"--tls-key={self.folder}/alice-key.pem")
        self.succeed(trusted, *words)
        self.assertIn("does it want a client certificate? -tls_cert", self.fail_to(trusted))
        self.assertIn("needs its key", self.fail_to(trusted, words[0]))

    def test_a_token(self) -> None:
        self.serve()
        path = self.folder / "token"
        path.touch(0o600)
        path.write_text(f"{TOKEN}\nmore\n")
        self.succeed(f"--tls-ca={self.authority.path}", f"--token-file={path}")
        self.assertEqual(self.server.last.metadata["authorization"], f"Bearer {TOKEN}")

    def test_files_that_are_no_pem(self) -> None:
        self.serve()
        path = self.folder / "garbage"
        path.write_bytes(b"\x00")
        self.assertIn("is no PEM file with a certificate", self.fail_to(f"--tls-ca={path}"))
        self.assertIn("-tls_ca: unable to read /nowhere", self.fail_to("--tls-ca=/nowhere"))


class TokenTests(ToolTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.mktemp()).absolute()
        self.path.touch(0o600)
        self.path.write_text(TOKEN)

    def test_it_goes_to_this_machine_without_encryption(self) -> None:
        self.succeed("--token-file", str(self.path), "listclients")
        self.assertEqual(self.server.last.metadata["authorization"], f"Bearer {TOKEN}")

    def test_it_goes_to_no_other_machine_without_encryption(self) -> None:
        outcome = run_tool("-admin_addr=192.0.2.1:6061", f"--token-file={self.path}", "listclients")
        self.assertIn("the token is not sent to 192.0.2.1:6061 without encryption", outcome.err)
        self.assertEqual(outcome.status, 1)

    def test_it_is_nobody_elses(self) -> None:
        self.path.chmod(0o644)
        err = self.fail_to("--token-file", str(self.path), "listclients")
        self.assertIn("everybody on this machine can read the token", err)
        self.assertIn(f"chmod 600 {self.path}", err)
        self.assertNotIn(TOKEN, err)

    def test_files_without_one(self) -> None:
        for content in (b"", b"\n", b"a\x00b", b"\xff\xfe", b"x" * 5000):
            self.path.write_bytes(content)
            self.assertIn(
                "there is no token in the first line", self.fail_to(f"--token-file={self.path}", "listclients")
            )
        self.assertIn("unable to read the token in /nowhere", self.fail_to("--token-file=/nowhere", "listclients"))

    def test_it_is_never_printed(self) -> None:
        self.server.replies["ListClients"] = refuse(grpc.StatusCode.UNAUTHENTICATED, "the token is not known here")
        err = self.fail_to(f"--token-file={self.path}", "listclients")
        self.assertIn("the server does not know what -token_file presented", err)
        self.assertNotIn(TOKEN, err)

    def test_loopback(self) -> None:
        for address in ("localhost:1", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "unix:/run/x", "dns:///localhost:1"):
            self.assertTrue(link.is_here(address), address)
        for address in ("192.0.2.1:1", "localhost.example:1", "[2001:db8::1]:1", "0.0.0.0:1", "fleet:1"):
            self.assertFalse(link.is_here(address), address)


class PatienceTests(SynchronousTestCase):
    def test_nothing_goes_on(self) -> None:
        lost = threading.Event()
        with link.Patience(0.05, lost.set) as patience:
            self.assertTrue(lost.wait(30))
        self.assertTrue(patience.lost)

    def test_whoever_reads_may_take_any_time(self) -> None:
        lost = threading.Event()
        with link.Patience(0.05, lost.set) as patience:
            patience.hold()
            self.assertFalse(lost.wait(0.3))
            patience.renew()
            self.assertTrue(lost.wait(30))


class ErrorTests(ToolTestCase):
    def refused(self, code: grpc.StatusCode, details: str = "because") -> str:
        self.server.replies["ListClients"] = refuse(code, details)
        return self.fail_to("listclients")

    def test_each_says_what_to_do(self) -> None:
        self.assertIn("the server wants to know who asks: -token_file", self.refused(grpc.StatusCode.UNAUTHENTICATED))
        self.assertIn(
            "code = PermissionDenied desc = bob is a viewer; needs role operator\n  viewers may read",
            self.refused(grpc.StatusCode.PERMISSION_DENIED, "bob is a viewer; needs role operator"),
        )
        too_large = "Received message larger than max (5 vs. 4)"
        self.assertIn("clients list", self.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large))
        self.server.replies["StoreFile"] = refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large)
        self.assertIn("files upload", self.fail_to("storefile", "svc", "name", __file__))
        self.assertEqual(
            self.refused(grpc.StatusCode.INTERNAL),
            "fleetspeak-admin: ListClients RPC failed: rpc error: code = Internal desc = because\n",
        )

    def test_a_server_that_does_not_answer(self) -> None:
        ended = threading.Event()
        self.addCleanup(ended.set)
        self.server.replies["ListClients"] = lambda request, context: ended.wait(30) and None
        err = self.fail_to("--timeout=0.3s", "listclients")
        self.assertIn("code = DeadlineExceeded", err)
        self.assertIn(f"no answer of {self.server.address} within 0.3 s; -timeout 2m waits longer", err)

    def test_a_port_that_never_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            outcome = run_tool(f"-admin_addr=127.0.0.1:{listener.getsockname()[1]}", "--timeout=0.5", "listclients")
        self.assertEqual(outcome.status, 1)
        self.assertIn("within 0.5 s", outcome.err)

    def test_nobody_listens(self) -> None:
        begun = time.monotonic()
        outcome = run_tool(f"-admin_addr=127.0.0.1:{free_port()}", "--timeout=0.5", "listclients")
        self.assertEqual(outcome.status, 1)
        self.assertIn("nobody listens at 127.0.0.1:", outcome.err)
        self.assertIn("FLEETSPEAK_ADMIN_ADDR", outcome.err)
        self.assertLess(time.monotonic() - begun, 20)

    def test_a_server_that_is_starting_is_waited_for(self) -> None:
        """server-core.md 12.2: upstream's tool waits, too, but without limit."""
        late = FakeServer()
        port = free_port()
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 1:
                late.start(address=f"127.0.0.1:{port}")
                self.addCleanup(late.stop)
            threading.Event().wait(seconds)

        with mock.patch.object(link.time, "sleep", sleep):
            outcome = run_tool(f"-admin_addr=127.0.0.1:{port}", "listclients")
        self.assertEqual((outcome.status, outcome.out), (0, "No clients found.\n"), outcome.err)

    def test_a_unix_socket(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            server = FakeServer()
            server.start(address=f"unix:{folder}/admin")
            self.addCleanup(server.stop)
            self.assertEqual(run_tool(f"-admin_addr=unix:{folder}/admin", "listclients").out, "No clients found.\n")
            outcome = run_tool(f"-admin_addr=unix:{folder}/none", "--timeout=0.3", "listclients")
            self.assertIn("nobody listens at unix:", outcome.err)

    def test_without_grpc(self) -> None:
        with mock.patch.dict("sys.modules", grpc=None):
            err = self.fail_to("listclients")
        self.assertIn("pip install 'fleetspeak-twisted[server]'", err)

    def test_an_address_that_is_none(self) -> None:
        self.assertIn("expected host:port", run_tool("-admin_addr=localhost", "listclients").err)

    def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(self) -> None:
        outcome = run_tool(
            f"-admin_addr={self.server.address}", "listclients", http_proxy=f"http://127.0.0.1:{free_port()}"
        )
        self.assertEqual(outcome.status, 0, outcome.err)

    def test_a_large_fleet_in_one_reply(self) -> None:
        reply = admin.ListClientsResponse()
        for number in range(120_000):
            reply.clients.add(client_id=number.to_bytes(8, "big"), last_contact_address="x" * 60)
        self.assertGreater(reply.ByteSize(), 8 << 20)
        self.server.replies["ListClients"] = reply
        self.assertEqual(self.succeed("listclients").count("\n"), 120_001)
