"""States that are copied to another machine or path: a warning and a label, until a rekey."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.defer import execute
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.client.identity import KeyedIdentity, new_identity
from fleetspeak.client.labels import Labels
from fleetspeak.client.persistence.clones import CloneCheck
from fleetspeak.client.persistence.filesystem import FilePersistence
from fleetspeak.ids import show
from fleetspeak.pb import client, system
from fleetspeak.security import keys
from fleetspeak.testing.clientside import client_settings
from tests.client.wholeclient import WholeClientCase, unpack

NOW = 1_700_000_000.0


class CloneCheckTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.machine = self.folder / "machine-id"
        self.machine.write_text("4c1\n")
        self.home = self.folder / "home"
        self.home.mkdir()
        self.identity = new_identity(NOW)
        self.save(self.home, self.identity)

    def save(self, folder: Path, identity: KeyedIdentity) -> None:
        FilePersistence(folder / "state").save(client.ClientState(client_key=keys.dump_sec1(identity.key)))

    def start(self, folder: Path | None = None, identity: KeyedIdentity | None = None) -> list[str]:
        """A client starts; what it warns of."""
        self.labels = Labels(("linux",))
        self.check = CloneCheck(
            (folder or self.home) / "state",
            self.labels,
            execute,
            machine_files=(self.folder / "none", self.machine),
            hardware_files=(),
        )
        with capturedLogs() as logged:
            self.check.check(identity or self.identity)
        return [formatEvent(event) or "" for event in logged]

    def test_at_home_nothing_is_said(self) -> None:
        for _ in range(2):
            self.assertEqual(self.start(), [])
            self.assertEqual(self.labels.all, ("linux",))
        note = self.home / "state.host"
        self.assertEqual(stat.S_IMODE(note.stat().st_mode), 0o600)
        self.assertIn(show(self.identity.client_id), note.read_text())
        self.assertNotIn("4c1", note.read_text(), "the machine's id is confidential")

    def test_on_another_machine_it_is_suspected_at_each_start_until_the_rekey(self) -> None:
        self.start()
        self.machine.write_text("4c2\n")
        for _ in range(2):
            (line,) = self.start()
            self.assertIn("it was used before on another machine, ", line)
            self.assertIn("state.host", line)
            self.assertEqual(self.labels.all, ("linux", "clone-suspected"))
        identity = new_identity(NOW)
        self.check.rekeyed(identity)
        self.assertEqual(self.labels.all, ("linux",))
        self.assertEqual(self.start(identity=identity), [])

    def test_without_its_note_a_copy_is_not_noticed(self) -> None:
        self.start()
        self.machine.write_text("4c2\n")
        (self.home / "state.host").unlink()
        self.assertEqual(self.start(), [])

    def test_a_copy_on_the_same_machine(self) -> None:
        self.start()
        copy = self.folder / "copy"
        shutil.copytree(self.home, copy)
        (line,) = self.start(copy)
        self.assertIn(f"the same identity is in {self.home / 'state'}", line)
        self.assertEqual(self.start(self.home), [], "the original is none")

    def test_a_move_on_the_same_machine_is_no_copy(self) -> None:
        self.start()
        self.home.rename(self.folder / "new")
        self.assertEqual(self.start(self.folder / "new"), [])
        (self.folder / "other").symlink_to("new")
        self.assertEqual(self.start(self.folder / "other"), [], "the same file by another path")

    def test_where_it_was_before_there_may_be_anything(self) -> None:
        for content in (b"", b"\xff", b"\n\3key"):
            self.start(self.home)
            new = self.folder / "new"
            shutil.copytree(self.home, new)
            (self.home / "state").write_bytes(content)
            self.assertEqual(self.start(new), [])
            shutil.rmtree(new)
            self.save(self.home, self.identity)

    def test_a_note_that_is_rubbish_or_not_safe_is_made_anew(self) -> None:
        note = self.home / "state.host"
        note.write_bytes(b"rubbish")
        self.assertEqual(self.start(), [])
        note.chmod(0o666)
        self.machine.write_text("4c2\n")
        self.assertIn("cannot use", self.start()[0])
        self.assertEqual(self.start(), [])

    def test_a_note_that_cannot_be_written_is_only_a_warning(self) -> None:
        (self.home / "state.host").mkdir()
        self.assertTrue(all("state.host" in line for line in self.start()))
        self.assertEqual(self.labels.all, ("linux",))


class WholeClientTests(WholeClientCase):
    """With the real persistence: what the server hears."""

    def test_the_label_is_announced_and_gone_after_a_rekey(self) -> None:
        state = self.folder / "var"
        state.mkdir()
        self.settings["state_file"] = state / "state"
        self.persistence = None  # type: ignore[assignment]
        client = self.start()
        self.server.exchange()
        self.successResultOf(client.stopService())
        shutil.copytree(state, self.folder / "copy")
        self.settings["state_file"] = self.folder / "copy" / "state"
        client = self.start()
        self.assertEqual(self.labels(), ["amd64", "linux", "clone-suspected"])
        self.server.exchange(self.message("system", 1, "RekeyRequest"))
        self.assertEqual(self.labels(), ["amd64", "linux"])
        self.successResultOf(client.stopService())

    def test_the_check_can_be_turned_off(self) -> None:
        state = self.folder / "var"
        state.mkdir()
        self.settings |= {"state_file": state / "state", "clone_check": False}
        self.persistence = None  # type: ignore[assignment]
        client = self.start()
        self.successResultOf(client.stopService())
        self.assertFalse((state / "state.host").exists())
        self.assertTrue(client_settings().clone_check)

    def labels(self) -> list[str]:
        """Those of the ClientInfo that comes."""
        (info,) = [message for message in self.server.exchange() if message.message_type == "ClientInfo"]
        return [label.label for label in unpack(info, system.ClientInfoData()).labels]
