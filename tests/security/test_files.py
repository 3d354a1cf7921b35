import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.security import files


class WriteAtomicallyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "key.pem"

    def test_a_private_file_is_private_from_the_start_whatever_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        files.write_atomically(self.path, b"secret", files.PRIVATE)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        os.umask(0o077)
        files.write_atomically(self.path, b"public", files.PUBLIC)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o644)

    def test_an_existing_file_is_replaced_whole_and_nothing_else_stays(self) -> None:
        self.path.write_bytes(b"a much longer old content")
        files.write_atomically(self.path, b"new", files.PRIVATE)
        self.assertEqual(self.path.read_bytes(), b"new")
        self.assertEqual(os.listdir(self.directory), ["key.pem"])

    def test_a_failure_keeps_the_old_content_and_leaves_no_litter(self) -> None:
        target = self.directory / "folder"
        target.mkdir()
        (target / "kept").touch()
        with self.assertRaises(OSError):
            files.write_atomically(target, b"new", files.PRIVATE)
        self.assertEqual(os.listdir(self.directory), ["folder"])

    def test_a_missing_folder_is_an_oserror(self) -> None:
        with self.assertRaises(FileNotFoundError):
            files.write_atomically(self.directory / "none" / "key.pem", b"new", files.PRIVATE)
