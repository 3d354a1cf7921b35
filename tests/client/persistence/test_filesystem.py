"""The state file: whole or not at all, private, and never lost silently."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.client.persistence.filesystem import FilePersistence
from fleetspeak.config.trust import Trust
from fleetspeak.errors import ConfigError
from fleetspeak.interfaces import IPersistence
from fleetspeak.pb import client
from fleetspeak.security import keys
from tests.vectors import load

NOW = 1_700_000_000.0

KEYS = [bytes.fromhex(vector["sec1_private_der_hex"]) for vector in load("client_ids")["derived"]]
KEY = KEYS[0]
STATE = client.ClientState(client_key=KEY, sequencing_nonce=42, revoked_cert_serials=[b"\x07"])


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
        self.persistence.save(STATE)
        self.assertEqual(FilePersistence(self.path).load(), STATE)
        self.assertEqual(self.names(), ["state", "state.bak"])

    def test_item_11_the_file_is_for_its_owner_alone_whatever_the_umask(self) -> None:
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        self.persistence.save(STATE)
        for path in self.folder.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)

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
        self.persistence.save(STATE)
        self.assertEqual(self.names(), ["state", "state.bak", "state.broken-20231114T221320Z"])
        self.assertEqual((self.folder / "state.broken-20231114T221320Z").read_bytes(), b"\xff not a state")
        self.assertIn("moved to", formatEvent(logged[-2]))
        self.assertIn("starting with a new identity", formatEvent(logged[-1]))

    def test_a_broken_file_that_cannot_be_set_aside_stops_the_client(self) -> None:
        self.path.write_bytes(b"\xff")
        with patch.object(os, "rename", side_effect=PermissionError(13, "Permission denied")):
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
        self.path.with_name("state.bak.new").symlink_to(elsewhere)
        self.persistence.save(STATE)
        self.assertEqual(elsewhere.read_bytes(), b"precious")
        self.assertEqual(self.names(), ["elsewhere", "state", "state.bak"])

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
            self.persistence.save(STATE)
        self.assertEqual(steps, ["file", "rename", "directory"] * 2, "the state, then its backup")

    def test_a_full_disk_leaves_the_old_state(self) -> None:
        self.persistence.save(client.ClientState(client_key=KEYS[0]))
        with patch.object(os, "fsync", side_effect=OSError(28, "No space left on device")):
            self.assertRaises(OSError, self.persistence.save, client.ClientState(client_key=KEYS[1]))
        self.assertEqual(self.persistence.load().client_key, KEYS[0])

    @given(st.binary(max_size=200))
    @settings(max_examples=60, deadline=None)
    def test_any_bytes_are_a_state_or_are_kept_elsewhere(self, data: bytes) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            path.write_bytes(data)
            FilePersistence(path).load()
            (kept,) = Path(folder).iterdir()
            self.assertEqual(kept.read_bytes(), data)

    def test_a_state_that_others_could_have_written_stops_the_client_and_is_not_touched(self) -> None:
        self.persistence.save(STATE)
        self.path.chmod(0o660)
        error = self.assertRaises(ConfigError, FilePersistence(self.path).load)
        self.assertIn(f"chmod go-w {self.path}", str(error))
        with capturedLogs() as logged:
            FilePersistence(self.path, trust=Trust(insecure=True)).load()
        self.assertIn("its group may write to it", formatEvent(logged[-1]))

    def test_a_backup_that_others_could_have_written_is_no_use(self) -> None:
        self.persistence.save(STATE)
        self.path.write_bytes(b"\xff")
        (self.folder / "state.bak").chmod(0o602)
        self.assertEqual(self.persistence.load(), client.ClientState())

    def test_a_folder_in_which_others_could_put_a_state_stops_the_client(self) -> None:
        self.folder.chmod(0o777)
        error = self.assertRaises(ConfigError, self.persistence.claim)
        self.assertIn(f"chmod go-w {self.folder}", str(error))
        self.folder.chmod(0o1777)
        self.assertRaises(ConfigError, self.persistence.claim)
        self.folder.chmod(0o755)
        self.persistence.claim()
        self.persistence.release()
        self.assertEqual(self.names(), ["state.lock"])

    def test_a_state_that_others_could_read_is_a_warning_and_private_from_now_on(self) -> None:
        self.persistence.save(STATE)
        self.path.chmod(0o644)
        with capturedLogs() as logged:
            self.persistence.save(self.persistence.load())
        self.assertIn("could be read by others", formatEvent(logged[0]))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)


class BackupTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "state"
        self.backup = self.folder / "state.bak"
        FilePersistence(self.path).save(STATE)

    def load(self) -> tuple[client.ClientState, str]:
        """What a new process reads, and what it logs."""
        with capturedLogs() as logged:
            state = FilePersistence(self.path, now=lambda: NOW).load()
        return state, "\n".join(formatEvent(event) or "" for event in logged)

    def test_a_broken_file_leads_to_the_backup_and_is_kept(self) -> None:
        for content in (b"\xff no state", b"", client.ClientState(client_key=b"no key").SerializeToString(),
                        client.ClientState(sequencing_nonce=7).SerializeToString()):  # fmt: skip
            self.path.write_bytes(content)
            state, logged = self.load()
            self.assertEqual(state, STATE)
            self.assertIn(f"the state file {self.path} cannot be used", logged)
            self.assertIn(f"going on with the identity of the backup {self.backup}", logged)
            broken = self.folder / "state.broken-20231114T221320Z"
            self.assertEqual(broken.read_bytes(), content)
            self.assertEqual(client.ClientState.FromString(self.path.read_bytes()), STATE, "in its place at once")
            broken.unlink()

    def test_it_is_taken_on_a_file_system_without_links_too(self) -> None:
        self.path.write_bytes(b"\xff")
        with patch.object(os, "link", side_effect=PermissionError(1, "Operation not permitted")):
            self.assertEqual(self.load()[0], STATE)

    def test_a_file_that_somebody_removed_means_a_new_identity_and_can_be_got_back(self) -> None:
        self.path.unlink()
        state, logged = self.load()
        self.assertEqual(state, client.ClientState())
        self.assertIn(f"rename {self.backup}.old to {self.path}", logged)
        FilePersistence(self.path).save(client.ClientState(client_key=KEYS[1]))
        self.backup.with_name("state.bak.old").rename(self.path)
        self.assertEqual(self.load()[0], STATE)

    def test_a_backup_that_is_broken_too_stops_nobody(self) -> None:
        self.path.write_bytes(b"\xff")
        self.backup.write_bytes(b"\xfe")
        state, logged = self.load()
        self.assertEqual(state, client.ClientState())
        self.assertIn("the backup", logged)
        self.assertIn("starting with a new identity", logged)
        self.assertEqual(self.backup.with_name("state.bak.broken-20231114T221320Z").read_bytes(), b"\xfe")

    def test_a_broken_key_without_a_backup_stops_the_client_and_nothing_is_touched(self) -> None:
        self.backup.unlink()
        content = client.ClientState(client_key=b"no key").SerializeToString()
        self.path.write_bytes(content)
        with self.assertRaisesRegex(ConfigError, "unable to parse client key"):
            self.load()
        self.assertEqual(self.path.read_bytes(), content)

    def test_it_is_written_when_key_or_serials_change_and_not_for_a_nonce(self) -> None:
        persistence = FilePersistence(self.path)
        persistence.save(client.ClientState(client_key=KEY, sequencing_nonce=1))
        written = self.backup.stat().st_ino
        persistence.save(client.ClientState(client_key=KEY, sequencing_nonce=2))
        self.assertEqual(self.backup.stat().st_ino, written)
        persistence.save(client.ClientState(client_key=KEY, revoked_cert_serials=[b"\x08"]))
        self.assertNotEqual(self.backup.stat().st_ino, written)

    def test_one_that_cannot_be_written_is_removed_rather_than_left_with_an_old_key(self) -> None:
        self.backup.with_name("state.bak.new").mkdir()
        with capturedLogs() as logged:
            FilePersistence(self.path).save(client.ClientState(client_key=KEYS[1]))
        self.assertFalse(self.backup.exists())
        self.assertIn("cannot write the backup", formatEvent(logged[0]))
        self.assertEqual(self.load()[0].client_key, KEYS[1])

    def test_a_rekey_by_the_go_client_meanwhile_is_believed(self) -> None:
        self.path.write_bytes(client.ClientState(client_key=KEYS[1]).SerializeToString())
        state, _ = self.load()
        self.assertEqual(state.client_key, KEYS[1])
        FilePersistence(self.path).save(state)
        self.assertEqual(client.ClientState.FromString(self.backup.read_bytes()).client_key, KEYS[1])


def corrupted(content: bytes, data: st.DataObject) -> bytes:
    """Another content: cut off, overwritten in part, or with bits that changed."""
    kind = data.draw(st.sampled_from(["cut", "overwrite", "flip", "anything"]))
    if kind == "anything":
        return data.draw(st.binary(max_size=200))
    place = data.draw(st.integers(0, max(len(content) - 1, 0)))
    if kind == "cut" or not content:
        return content[:place]
    if kind == "flip":
        flipped = bytes([content[place] ^ (1 << data.draw(st.integers(0, 7)))])
        return content[:place] + flipped + content[place + 1 :]
    other = data.draw(st.binary(min_size=1, max_size=30))
    return content[:place] + other + content[place + len(other) :]


class Killed(BaseException):
    """The process is gone at this point."""


class Saboteur:
    """Lets what the persistence does to the disk go wrong at a chosen step."""

    STEPS = ((os, "open"), (os, "fsync"), (os, "link"), (os, "rename"), (Path, "replace"), (Path, "unlink"))

    def __init__(self, step: int, error: BaseException) -> None:
        self._left = step
        self._error = error

    def __enter__(self) -> None:
        self._patches = [patch.object(owner, name, self._wrap(getattr(owner, name))) for owner, name in self.STEPS]
        for one in self._patches:
            one.start()

    def __exit__(self, *_: object) -> None:
        for one in self._patches:
            one.stop()

    def _wrap(self, function: Any) -> Any:
        def sabotaged(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise self._error
            return function(*arguments, **named)

        return sabotaged


class CorruptionTests(SynchronousTestCase):
    @given(st.data())
    @settings(max_examples=200, deadline=None)
    def test_any_corruption_gives_the_same_identity_or_a_clear_message(self, data: st.DataObject) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            FilePersistence(path).save(STATE)
            has_backup = data.draw(st.booleans(), "has_backup")
            if not has_backup:
                (Path(folder) / "state.bak").unlink()
            path.write_bytes(corrupted(path.read_bytes(), data))
            with capturedLogs() as logged:
                try:
                    key = FilePersistence(path).load().client_key
                except ConfigError as error:
                    self.assertIn(str(path), str(error))
                    self.assertFalse(has_backup)
                    return
            if public(key) != public(KEY):
                self.assertFalse(has_backup)
                # A file that was cut to nothing, or to no key, is a new client's: the Go client makes those.
                told = any("cannot be used" in event["log_format"] for event in logged)
                self.assertTrue(told or not client.ClientState.FromString(path.read_bytes()).client_key)

    @given(st.data())
    @settings(max_examples=100, deadline=None)
    def test_item_17_no_kill_brings_a_replaced_key_back_nor_loses_the_one_in_use(self, data: st.DataObject) -> None:
        """Clients that are killed at any step on the disk, and state files that are corrupted while none runs."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            in_use, tried = b"", set[bytes]()
            for turn in range(data.draw(st.integers(1, 8))):
                persistence = FilePersistence(path, now=lambda at=turn: NOW + at)
                step = data.draw(st.integers(1, 20))
                try:
                    with Saboteur(step, Killed()), capturedLogs():
                        loaded = persistence.load().client_key
                        if in_use:
                            self.assertIn(public(loaded), {public(key) for key in tried | {in_use}})
                        key = loaded or new_key(turn)
                        tried.add(key)
                        persistence.save(client.ClientState(client_key=key))
                        in_use, tried = key, set()
                        tried.add(key := new_key(100 + turn))
                        persistence.save(client.ClientState(client_key=key))
                        in_use, tried = key, set()
                except Killed:
                    pass
                if in_use and data.draw(st.booleans(), "corrupt"):
                    path.write_bytes(corrupted(path.read_bytes(), data))

    @given(st.integers(1, 20))
    @settings(max_examples=20, deadline=None)
    def test_no_failing_disk_brings_a_replaced_key_back(self, step: int) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            persistence = FilePersistence(path, now=lambda: NOW)
            persistence.save(client.ClientState(client_key=KEYS[0]))
            try:
                with Saboteur(step, OSError(28, "No space left on device")), capturedLogs():
                    persistence.save(client.ClientState(client_key=KEYS[1]))
            except OSError:
                return  # then the new key is not used
            path.write_bytes(b"\xff")
            with capturedLogs():
                self.assertNotEqual(FilePersistence(path).load().client_key, KEYS[0])


def new_key(number: int) -> bytes:
    """A key for each number."""
    return keys.dump_sec1(ec.derive_private_key(number + 1, ec.SECP256R1()))


def public(key: bytes) -> bytes:
    """What makes the id; nothing for no key."""
    return keys.public_der(keys.load_sec1(key)) if key else b""
