"""Files that are put into a folder: as a whole or not at all, and nowhere else."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from fleetspeak.errors import InvalidRecord, StoreError
from fleetspeak.interfaces import IFileWriter, IManagedFileStore
from fleetspeak.records import FileStat
from fleetspeak.server.directoryfiles import DirectoryFiles, DirectoryFilesFactory
from fleetspeak.server.directorywriter import FORGOTTEN_AFTER, PREFIX, DirectoryFileWriter
from tests.server.test_directoryfiles import HeldThread

T = TypeVar("T")


def result_of(done: Deferred[T]) -> T:
    """What is there at once; raises what it failed with."""
    found: list[T] = []
    failed: list[Failure] = []
    done.addCallbacks(found.append, failed.append)
    for failure in failed:
        failure.raiseException()
    return found[0]


class WriterCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.outside = Path(folder.name)
        self.root = self.outside / "root"
        self.root.mkdir()
        self.files = DirectoryFiles(self.root, execute)

    def open_files(self) -> list[str]:
        """Those of this process in the folder."""
        found = []
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return [target for target in found if target.startswith(str(self.outside))]

    def writer(self, name: str, size: int = 4) -> IFileWriter:
        return result_of(self.files.create(name, size))

    def write(self, name: str, data: bytes = b"data") -> FileStat:
        writer = self.writer(name, len(data))
        try:
            result_of(Deferred.fromCoroutine(writer.write(data)))
            return result_of(Deferred.fromCoroutine(writer.commit()))
        finally:
            writer.close()

    def there(self) -> list[str]:
        return sorted(str(path.relative_to(self.outside)) for path in self.outside.rglob("*") if not path.is_dir())


class WriterTests(WriterCase):
    def tearDown(self) -> None:
        self.assertEqual(self.open_files(), [])

    def test_interfaces(self) -> None:
        verifyObject(IManagedFileStore, self.files)
        writer = self.writer("n")
        verifyObject(IFileWriter, writer)
        writer.close()

    def test_it_is_there_when_it_is_complete(self) -> None:
        writer = self.writer("a/b/c")
        self.successResultOf(Deferred.fromCoroutine(writer.write(b"da")))
        self.assertEqual([name.startswith(f"root/{PREFIX}") for name in self.there()], [True])
        self.successResultOf(Deferred.fromCoroutine(writer.write(b"ta")))
        stat = self.successResultOf(Deferred.fromCoroutine(writer.commit()))
        self.assertEqual(self.there(), ["root/a/b/c"])
        self.assertEqual((self.root / "a/b/c").read_bytes(), b"data")
        self.assertEqual(stat, FileStat(os.stat(self.root / "a/b/c").st_mtime_ns, 4))
        writer.close()

    def test_one_that_is_given_up_leaves_nothing(self) -> None:
        writer = self.writer("a/b")
        self.successResultOf(Deferred.fromCoroutine(writer.write(b"data")))
        writer.close()
        writer.close()
        self.assertEqual(list(self.root.iterdir()), [])

    def test_one_that_is_given_up_while_it_is_written(self) -> None:
        """The thread ends what it does, then everything goes."""
        thread = HeldThread()
        writer = DirectoryFileWriter(self.root, "n", 4, thread)
        writing = Deferred.fromCoroutine(writer.write(b"data"))
        writing.cancel()
        self.failureResultOf(writing, CancelledError)
        writer.close()
        self.assertEqual(len(thread.calls), 1)
        thread.work()
        self.assertEqual(len(self.there()), 1)
        thread.work()
        self.assertEqual(self.there(), [])

    def test_one_that_is_given_up_while_it_gets_its_name(self) -> None:
        """Then it has it."""
        thread = HeldThread()
        writer = DirectoryFileWriter(self.root, "n", 0, thread)
        committing = Deferred.fromCoroutine(writer.commit())
        writer.close()
        thread.work()
        self.successResultOf(committing)
        thread.work()
        self.assertEqual(self.there(), ["root/n"])

    def test_one_that_replaces_another_is_of_a_later_second(self) -> None:
        first = self.write("n")
        os.utime(self.root / "n", ns=(first.modified_ns, first.modified_ns + 5 * 10**9))
        second = self.write("n", b"new")
        self.assertEqual(second.modified_ns // 10**9, first.modified_ns // 10**9 + 6)
        self.assertEqual((self.root / "n").read_bytes(), b"new")

    def test_links_are_not_followed(self) -> None:
        (self.outside / "secret").write_bytes(b"secret")
        (self.root / "link").symlink_to(self.outside)
        (self.root / "n").symlink_to(self.outside / "secret")
        with self.assertRaises(InvalidRecord):
            self.write("link/new")
        self.write("n")  # takes the place of the link
        self.assertEqual((self.outside / "secret").read_bytes(), b"secret")
        self.successResultOf(self.files.delete("link/secret"))
        self.assertEqual(self.there(), ["root/n", "secret"])  # a link to a folder counts as one

    def test_what_cannot_be_a_file(self) -> None:
        """A folder's name, or one below a file."""
        self.write("a/b")
        for name in ("a", "a/b/c"):
            with self.assertRaises(InvalidRecord):
                self.write(name)
        self.successResultOf(self.files.delete("a"))
        self.successResultOf(self.files.delete("a/b/c"))
        self.assertEqual(self.there(), ["root/a/b"])

    def test_a_folder_that_is_gone(self) -> None:
        self.root.rmdir()
        with self.assertRaisesRegex(StoreError, "cannot be written"):
            self.write("n")
        self.failureResultOf(self.files.page("", 5), StoreError)
        self.successResultOf(self.files.delete("n"))

    def test_pages(self) -> None:
        for name in ("b", "a/z", "a/b/c", "c"):
            self.write(name)
        names = [name for name, _ in self.successResultOf(self.files.page("", 3))]
        self.assertEqual(names, ["a/b/c", "a/z", "b"])
        self.assertEqual([name for name, _ in self.successResultOf(self.files.page("b", 3))], ["c"])

    def test_what_a_server_that_was_killed_left_is_removed_at_the_next_start(self) -> None:
        """Not what another one may be writing."""
        for name, age in (("old", FORGOTTEN_AFTER + 60), ("new", 60)):
            path = self.root / f"{PREFIX}{name}"
            path.write_bytes(b"")
            now = path.stat().st_mtime
            os.utime(path, (now - age, now - age))
        DirectoryFilesFactory().make(str(self.root), None)
        self.assertEqual(self.there(), [f"root/{PREFIX}new"])


class NamesTests(WriterCase):
    @given(
        st.text(max_size=20)
        | st.lists(st.sampled_from(["a", "b", "..", ".", "", "n" * 300, "ä" * 200, "\0"]), max_size=4).map("/".join)
    )
    def test_any_name_gives_a_file_below_the_folder_or_is_refused(self, name: str) -> None:
        try:
            self.write(name)
        except InvalidRecord:
            pass
        else:
            self.assertEqual((self.root / name).read_bytes(), b"data")
        self.assertEqual([one for one in self.there() if not one.startswith("root/")], [])
        self.assertEqual([one for one in self.there() if PREFIX in one], [])
