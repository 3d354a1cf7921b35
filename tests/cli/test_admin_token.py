"""``fleetspeak admin-token``, by the command line."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.cli.main import main
from fleetspeak.config.adminaccess import read_access
from fleetspeak.core.adminaccess import Callers, Role


class AdminTokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.access = Path(folder.name) / "admin.access"
        self.token_file = Path(folder.name) / "token"

    def run_command(self, *words: object) -> tuple[object, str]:
        """The status, or the message, that it exits with; and what it prints."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            code = self.assertRaises(SystemExit, main, ["admin-token", *map(str, words)]).code
        return code, said.getvalue()

    def test_what_it_prints_lets_the_caller_in(self) -> None:
        code, said = self.run_command("alice", "--role", "operator")
        self.assertEqual(code, 0)
        _, entry, _, _, token = said.splitlines()
        self.access.write_text(entry)
        known = Callers(read_access(self.access).callers).by_token(token)
        assert known is not None
        self.assertEqual((known.name, known.role), ("alice", Role.OPERATOR))
        self.assertNotIn(token, entry)
        self.assertGreaterEqual(len(token), 43)

    def test_it_adds_to_the_file_and_keeps_what_is_there(self) -> None:
        self.access.write_text("# ours\nlocal_plaintext { role: VIEWER }")
        self.access.chmod(0o640)
        for name in ("alice", 'b"ob\\'):
            code, _ = self.run_command(name, "--role", "admin", "--access", self.access)
            self.assertEqual(code, 0)
        self.assertTrue(self.access.read_text().startswith("# ours\nlocal_plaintext { role: VIEWER }\ncaller {"))
        self.assertEqual([one.name for one in read_access(self.access).callers], ["alice", 'b"ob\\'])
        self.assertEqual(self.access.stat().st_mode & 0o777, 0o640)

    def test_a_new_file_is_private(self) -> None:
        self.run_command("alice", "--role", "admin", "--access", self.access, "--token-file", self.token_file)
        for path in (self.access, self.token_file):
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        token = self.token_file.read_text().strip()
        self.assertIsNotNone(Callers(read_access(self.access).callers).by_token(token))

    def test_the_owner_stays(self) -> None:
        if os.geteuid():
            self.skipTest("needs root")
        self.access.write_text("local_plaintext { role: VIEWER }")
        os.chown(self.access, 54321, 54321)
        self.run_command("alice", "--role", "admin", "--access", self.access)
        self.assertEqual((self.access.stat().st_uid, self.access.stat().st_gid), (54321, 54321))

    def test_a_token_in_a_file_is_not_printed(self) -> None:
        _, said = self.run_command("alice", "--role", "admin", "--token-file", self.token_file)
        self.assertNotIn(self.token_file.read_text().strip(), said)

    def test_what_it_refuses(self) -> None:
        self.access.write_text('caller { name: "alice" role: ADMIN certificate: "CN:alice" }')
        before = self.access.read_text()
        for words, text in (
            (["alice"], "--role is missing"),
            (["", "--role", "admin"], "1 to 128 printable characters"),
            (["a\n", "--role", "admin"], "1 to 128 printable characters"),
            (["alice", "--role", "admin", "--access", self.access], 'has a caller "alice" already'),
            (["bob", "--access", self.access], "--role is missing"),
            (["bob", "--role", "admin", "--access", self.access.parent / "gone" / "file"], "unable to write"),
        ):
            code, said = self.run_command(*words, "--token-file", self.token_file)
            self.assertIn(text, str(code))
            self.assertEqual(said, "")
            self.assertFalse(self.token_file.exists(), "neither or both")
        self.assertEqual(self.access.read_text(), before)
        self.token_file.write_text("precious")
        code, _ = self.run_command("bob", "--role", "admin", "--token-file", self.token_file)
        self.assertIn("unable to write the token", str(code))
        self.assertEqual(self.token_file.read_text(), "precious")

    def test_a_broken_file_is_left_alone(self) -> None:
        self.access.write_text("caller {")
        code, _ = self.run_command("bob", "--role", "admin", "--access", self.access)
        self.assertIn(f"{self.access}:1", str(code))
