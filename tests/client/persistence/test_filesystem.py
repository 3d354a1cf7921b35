"""The state file: whole or not at all, private, and never lost silently."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.client.persistence.filesystem import FilePersistence
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IPersistence
from fleetspeak.pb import client

NOW = 1_700_000_000.0


class FilePersistenceTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "state"
        self.persistence = FilePersistence(self.path, now=lambda: NOW)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def test_provides_the_interface(self) -> None:
        verifyObject(IPersistence, self.persistence)

    def test_what_was_saved_is_loaded(self) -> None:
        state = client.ClientState(client_key=b"key", sequencing_nonce=42, revoked_cert_serials=[b"\x07"])
        self.persistence.save(state)
        self.assertEqual(FilePersistence(self.path).load(), state)
        self.assertEqual(self.names(), ["state"])

    def test_item_11_the_file_is_for_its_owner_alone_whatever_the_umask(self) -> None:
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        self.persistence.save(client.ClientState(client_key=b"key"))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_no_file_yet_is_an_empty_state(self) -> None:
        self.assertEqual(self.persistence.load(), client.ClientState())
        self.assertEqual(self.names(), [])

    def test_item_129_an_empty_file_is_an_empty_state(self) -> None:
        self.path.touch()
        self.assertEqual(self.persistence.load(), client.ClientState())
        self.assertEqual(self.names(), ["state"])

    def test_item_12_improved_a_broken_file_is_set_aside_and_kept(self) -> None:
        self.path.write_bytes(b"\xff not a state")
        with capturedLogs() as logged:
            self.assertEqual(self.persistence.load(), client.ClientState())
        self.persistence.save(client.ClientState(client_key=b"new"))
        self.assertEqual(self.names(), ["state", "state.broken-20231114T221320Z"])
        self.assertEqual((self.folder / "state.broken-20231114T221320Z").read_bytes(), b"\xff not a state")
        self.assertIn("moved to", logged[-1]["log_format"])

    def test_a_broken_file_that_cannot_be_set_aside_stops_the_client(self) -> None:
        self.path.write_bytes(b"\xff")
        with patch.object(Path, "rename", side_effect=PermissionError(13, "Permission denied")):
            error = self.assertRaises(ConfigError, self.persistence.load)
        self.assertIn("move it away", str(error))
        self.assertEqual(self.path.read_bytes(), b"\xff")

    def test_what_cannot_be_read_stops_the_client(self) -> None:
        self.path.mkdir()
        error = self.assertRaises(ConfigError, self.persistence.load)
        self.assertIn(str(self.path), str(error))

    def test_a_file_without_end_is_not_read_into_memory(self) -> None:
        with self.path.open("wb") as file:
            file.truncate(1 << 40)
        self.assertEqual(self.persistence.load(), client.ClientState())

    def test_a_leftover_of_a_crash_is_replaced_and_never_followed(self) -> None:
        elsewhere = self.folder / "elsewhere"
        elsewhere.write_bytes(b"precious")
        self.path.with_name("state.new").symlink_to(elsewhere)
        self.persistence.save(client.ClientState(client_key=b"key"))
        self.assertEqual(elsewhere.read_bytes(), b"precious")
        self.assertEqual(self.names(), ["elsewhere", "state"])

    def test_item_17_file_and_name_are_on_the_disk_before_save_returns(self) -> None:
        steps: list[str] = []
        sync, rename = os.fsync, Path.replace

        def noting_sync(descriptor: int) -> None:
            steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            sync(descriptor)

        def noting_rename(path: Path, target: Path) -> Path:
            steps.append("rename")
            return rename(path, target)

        with patch.object(os, "fsync", noting_sync), patch.object(Path, "replace", noting_rename):
            self.persistence.save(client.ClientState(client_key=b"key"))
        self.assertEqual(steps, ["file", "rename", "directory"])

    def test_a_full_disk_leaves_the_old_state(self) -> None:
        self.persistence.save(client.ClientState(client_key=b"old"))
        with patch.object(os, "fsync", side_effect=OSError(28, "No space left on device")):
            self.assertRaises(OSError, self.persistence.save, client.ClientState(client_key=b"new"))
        self.assertEqual(self.persistence.load().client_key, b"old")

    @given(st.binary(max_size=200))
    @settings(max_examples=60, deadline=None)
    def test_any_bytes_are_a_state_or_are_kept_elsewhere(self, data: bytes) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            path.write_bytes(data)
            FilePersistence(path).load()
            (kept,) = Path(folder).iterdir()
            self.assertEqual(kept.read_bytes(), data)
