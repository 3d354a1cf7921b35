"""Secrets in files."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.config.secretfile import MAX_BYTES, read_secret
from fleetspeak.errors import ConfigError


class SecretFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def write(self, content: bytes, mode: int = 0o600) -> None:
        self.path.write_bytes(content)
        self.path.chmod(mode)

    def assert_refused(self, words: str) -> None:
        with self.assertRaises(ConfigError) as raised:
            read_secret(self.path, 4)
        self.assertIn(words, str(raised.exception))
        self.assertIn(str(self.path), str(raised.exception))
        self.assertNotIn("HUSH", str(raised.exception))

    def test_the_content_without_the_end_of_the_line(self) -> None:
        for content in (b"HUSH", b"HUSH\n", b"HUSH\r\n", b"HU SH\0\xff\n"):
            self.write(content)
            self.assertEqual(read_secret(self.path, 4), content.rstrip(b"\r\n"))

    def test_what_others_may_read_or_write_is_no_secret(self) -> None:
        for mode in (0o644, 0o604, 0o620, 0o602):
            self.write(b"HUSH", mode)
            self.assert_refused("others may read or write")
        self.write(b"HUSH", 0o640)
        self.assertEqual(read_secret(self.path), b"HUSH")

    def test_the_wrong_size(self) -> None:
        self.write(b"HUS\n")
        self.assert_refused("must have 4 to")
        self.write(b"HUSH" * MAX_BYTES)
        self.assert_refused("must have 4 to")

    def test_what_is_no_file(self) -> None:
        self.assert_refused("No such file")
        self.path.mkdir(mode=0o700)
        self.assert_refused("directory")
