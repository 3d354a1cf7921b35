"""Files of a folder: what is served, and what is not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import ConfigError, NotFound, NotReady, StoreError
from fleetspeak.interfaces import IFileStore, IFileStoreFactory, IOpenFile
from fleetspeak.server.directoryfiles import DirectoryFiles, DirectoryFilesFactory

CONTENT = b"some content"


class HeldThread:
    """A thread that works when it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def __call__(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.calls.append((done, function, args))
        return done

    def work(self) -> None:
        done, function, args = self.calls.pop(0)
        execute(function, *args).addBoth(done.callback)


class DirectoryFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.outside = Path(folder.name)
        (self.outside / "secret").write_bytes(b"secret")
        self.root = self.outside / "root"
        (self.root / "sub").mkdir(parents=True)
        (self.root / "file").write_bytes(CONTENT)
        (self.root / "sub" / "a b").write_bytes(b"below")
        self.files = DirectoryFiles(self.root, execute, max_open=2)
        self.before = self.open_descriptors()

    def open_descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def open(self, name: str) -> IOpenFile:
        return self.successResultOf(self.files.open(name))

    def read(self, file: IOpenFile, first: int, length: int) -> bytes:
        return self.successResultOf(Deferred.fromCoroutine(file.read(first, length)))

    def assert_none(self, name: str) -> None:
        self.failureResultOf(self.files.open(name), NotFound)

    def test_interfaces(self) -> None:
        verifyObject(IFileStoreFactory, DirectoryFilesFactory())
        verifyObject(IFileStore, self.files)
        file = self.open("file")
        verifyObject(IOpenFile, file)
        file.close()
        self.assertRaises(ConfigError, DirectoryFilesFactory().make, "", object())

    def test_a_file(self) -> None:
        for name, content in (("file", CONTENT), ("sub/a b", b"below")):
            file = self.open(name)
            status = (self.root / name).stat()
            self.assertEqual(file.stat, (status.st_mtime_ns, len(content)))
            self.assertEqual(self.read(file, 0, len(content)), content)
            self.assertEqual(self.read(file, 2, 2), content[2:4])
            file.close()
        self.assertEqual(self.open_descriptors(), self.before)

    def test_names_that_lead_out(self) -> None:
        for name in ("../secret", "sub/../../secret", str(self.outside / "secret"), "/file", "..", ".", "", "sub/",
                     "sub//a b", "./file", "file/", "file/x", "sub", "none", "a\0b", "n" * 300, "\udc80"):  # fmt: skip
            self.assert_none(name)
        self.assertEqual(self.open_descriptors(), self.before)

    def test_links_are_not_followed(self) -> None:
        (self.root / "link").symlink_to(self.outside / "secret")
        (self.root / "inside").symlink_to("file")
        (self.root / "folder").symlink_to(self.outside)
        for name in ("link", "inside", "folder/secret"):
            self.assert_none(name)
        self.assertEqual(self.open_descriptors(), self.before)

    def test_what_is_no_regular_file(self) -> None:
        """A FIFO holds up nobody."""
        os.mkfifo(self.root / "fifo")
        self.assert_none("fifo")
        self.assertEqual(self.open_descriptors(), self.before)

    def test_files_that_are_still_written(self) -> None:
        (self.root / ".file.part").write_bytes(b"half")
        self.assert_none(".file.part")

    def test_a_file_that_changes_while_it_is_sent(self) -> None:
        file = self.open("file")
        with (self.root / "file").open("ab") as more:
            more.write(b"more")
        self.failureResultOf(Deferred.fromCoroutine(file.read(0, 3)), StoreError)
        file.close()

    def test_a_file_that_is_replaced_while_it_is_sent(self) -> None:
        """Whoever reads it goes on with the old one."""
        file = self.open("file")
        (self.root / ".new").write_bytes(b"new")
        (self.root / ".new").rename(self.root / "file")
        self.assertEqual(self.read(file, 0, len(CONTENT)), CONTENT)
        file.close()

    def test_not_too_many_at_a_time(self) -> None:
        held = [self.open("file") for _ in range(2)]
        self.failureResultOf(self.files.open("file"), NotReady)
        held.pop().close()
        self.assert_none("none")
        held.append(self.open("file"))
        for file in held:
            file.close()

    def test_nobody_waits_for_it_any_more(self) -> None:
        """Then it is closed: after it was opened, and after a piece was read."""
        thread = HeldThread()
        self.files = DirectoryFiles(self.root, thread, max_open=1)
        opening = self.files.open("file")
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        thread.work()
        self.assertEqual(self.open_descriptors(), self.before)
        opening = self.files.open("file")
        thread.work()
        file = self.successResultOf(opening)
        reading = Deferred.fromCoroutine(file.read(0, 3))
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        file.close()
        self.assertEqual(self.open_descriptors(), self.before + 1)
        thread.work()
        self.assertEqual(self.open_descriptors(), self.before)
        self.assertNoResult(self.files.open("file"))

    @given(st.lists(st.sampled_from(["..", ".", "", "sub", "secret", "file", "root", "a b", "\0"]), max_size=6))
    def test_no_name_leads_out(self, parts: list[str]) -> None:
        found: list[Any] = []
        self.files.open("/".join(parts)).addBoth(found.append)
        if IOpenFile.providedBy(found[0]):
            self.assertIn(parts, (["file"], ["sub", "a b"]))
            found[0].close()
