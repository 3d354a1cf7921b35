"""Files that are uploaded piece by piece, and listed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from fleetspeak.errors import NotFound
from fleetspeak.interfaces import IFileStore, IOpenFile
from fleetspeak.pb import admin, operator
from fleetspeak.server.admin.operator.files import MAX_PIECE
from fleetspeak.server.directoryfiles import DirectoryFiles
from fleetspeak.server.files import Files, StoredFiles
from fleetspeak.store.checks import MAX_FILE
from tests.server.admin.case import AdminCase

BAD = "INVALID_ARGUMENT"
CONTENT = bytes(range(256)) * (20 * 1024)
"""5 MiB, more than StoreFile takes."""

Requests = Iterator[operator.UploadFileRequest]


def head(service: str = "S", name: str = "n", size: int = len(CONTENT), sha256: bytes = b"") -> Requests:
    yield operator.UploadFileRequest(
        head=operator.UploadFileRequest.Head(service_name=service, file_name=name, size=size, sha256=sha256)
    )


def pieces(content: bytes = CONTENT, size: int = MAX_PIECE) -> Requests:
    for start in range(0, len(content), size):
        yield operator.UploadFileRequest(data=content[start : start + size])


def upload(content: bytes = CONTENT, size: int = MAX_PIECE, **fields: Any) -> Requests:
    fields.setdefault("sha256", hashlib.sha256(content).digest())
    yield from head(size=len(content), **fields)
    yield from pieces(content, size)


@implementer(IFileStore)
class Elsewhere:
    """Files that nobody can change from here."""

    def open(self, name: str) -> Deferred[IOpenFile]:
        raise NotFound(name)


class FilesCase(AdminCase):
    async def setUp(self) -> None:
        await super().setUp()
        self.files = Files(StoredFiles(self.store), self.file_stores)
        self.open_before = self.open_files()

    def make_file_stores(self) -> dict[str, IFileStore]:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        return {"D": DirectoryFiles(self.root, deferToThread), "E": Elsewhere()}

    def upload(self, *requests: Requests) -> Deferred[operator.FileEntry]:
        def each() -> Requests:
            for some in requests:
                yield from some

        return deferToThread(self.operator.UploadFile, each(), timeout=60)

    async def assert_upload_refused(self, words: str, *requests: Requests, code: str = BAD) -> None:
        with self.assertRaises(grpc.RpcError) as caught:
            await self.upload(*requests)
        error: Any = caught.exception
        self.assertEqual((error.code().name, error.details()), (code, words))

    async def content(self, service: str, name: str) -> bytes:
        """As a client gets it, by two ranges."""
        file = await self.files.open(service, name)
        try:
            half = file.stat.size // 2
            return await file.read(0, half) + await file.read(half, file.stat.size - half)
        finally:
            file.close()

    async def nothing_is_left(self) -> None:
        """Neither of files that were not finished, nor of what wrote them."""
        await self.when(lambda: not [name for name in os.listdir(self.root) if name.startswith(".")])
        await self.when(lambda: self.open_files() == self.open_before)

    def open_files(self) -> int:
        """How many of this process could be files that are being written: in the folder, or without a name."""
        count = 0
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{descriptor}")
                count += target.endswith("(deleted)") or target.startswith(str(self.root))
        return count


class UploadTests(FilesCase):
    async def test_more_than_store_file_takes(self) -> None:
        """Into the store, or the folder of the service; clients get it with ranges."""
        for service in ("S", "D"):
            entry = await self.upload(upload(service=service, name="a/b c"))
            self.assertEqual((entry.service_name, entry.file_name, entry.size), (service, "a/b c", len(CONTENT)))
            self.assertEqual(await self.content(service, "a/b c"), CONTENT)
            file = await self.files.open(service, "a/b c")
            self.assertEqual(entry.modified_time.ToNanoseconds(), file.stat.modified_ns)
            file.close()
        self.assertEqual(os.stat(self.root / "a" / "b c").st_mode & 0o777, 0o644)

    async def test_a_file_is_replaced_by_one_of_a_later_second(self) -> None:
        """HTTP tells them apart by it."""
        for service in ("S", "D"):
            first = await self.upload(upload(b"first", service=service))
            second = await self.upload(upload(b"second", size=2, service=service, sha256=b""))
            self.assertGreater(second.modified_time.seconds, first.modified_time.seconds)
            self.assertEqual(await self.content(service, "n"), b"second")
        await self.nothing_is_left()

    async def test_an_empty_file(self) -> None:
        for service in ("S", "D"):
            await self.upload(upload(b"", service=service))
            self.assertEqual(await self.content(service, "n"), b"")

    async def test_what_is_not_as_announced_changes_nothing(self) -> None:
        """Too little, too much, other bytes."""
        wrong = hashlib.sha256(b"other").digest()
        for service in ("S", "D"):
            await self.upload(upload(b"before", service=service))
            size = len(CONTENT)
            await self.assert_upload_refused(
                f"{size - 1} bytes came, not the {size} of the head", head(service), pieces(CONTENT[:-1])
            )
            await self.assert_upload_refused(
                "more bytes came than the 3 of the head", head(service, size=3), pieces(b"four")
            )
            await self.assert_upload_refused(
                "the bytes that came do not have the sha256 of the head", upload(service=service, sha256=wrong)
            )
            self.assertEqual(await self.content(service, "n"), b"before")
        await self.nothing_is_left()

    async def test_what_is_no_upload(self) -> None:
        names = "file must have service_name and file_name"
        for words, requests in (
            ("an upload begins with its head", ()),
            ("the first request of an upload must be its head", (pieces(b"x"),)),
            ("an upload has one head, in its first request", (head(), head())),
            ("a request of an upload has a head or data", (iter([operator.UploadFileRequest()]),)),
            (names, (head(service=""),)),
            (names, (head(name=""),)),
            ("sha256 must be 32 bytes", (head(sha256=b"x"),)),
            (f"size must be at most {2**62}", (head(size=2**63),)),
            (f"{MAX_PIECE + 1} bytes in one request, only {MAX_PIECE} allowed", (upload(size=MAX_PIECE + 1),)),
            ("the name of a file or of its service has more than 128 characters", (head(name="n" * 129),)),
            ("'../n' cannot be the name of a file in a folder", (head("D", "../n"),)),
            ("'.n' cannot be the name of a file in a folder", (head("D", ".n"),)),
        ):
            await self.assert_upload_refused(words, *requests)
        await self.nothing_is_left()

    async def test_what_a_database_does_not_take(self) -> None:
        """The caller is told where it could be kept; nothing needs to come for that."""
        size = MAX_FILE + 1
        await self.assert_upload_refused(
            f"file S/n has {size} bytes, more than the {MAX_FILE} that a database takes; --file-store S=directory:PATH "
            "keeps the files of this service in a folder, whatever their size",
            head(size=size),
        )

    async def test_what_the_disk_does_not_take(self) -> None:
        await self.assert_upload_refused(
            "the folder of files for clients cannot be written: No space left on device",
            head("D", size=2**60),
            pieces(b"x"),
            code="UNAVAILABLE",
        )
        await self.nothing_is_left()

    async def test_files_of_a_service_that_are_elsewhere(self) -> None:
        """Whatever would be written would not be seen by any client."""
        words = "the files of service E are kept where this server cannot write"
        await self.assert_upload_refused(words, head("E"), code="FAILED_PRECONDITION")
        for method, request in (
            ("StoreFile", admin.StoreFileRequest(service_name="E", file_name="n")),
            ("DeleteFile", admin.DeleteFileRequest(service_name="E", file_name="n")),
            ("operator.ListFiles", operator.ListFilesRequest(service_name="E")),
        ):
            await self.assert_refused("FAILED_PRECONDITION", words, method, request)

    async def test_a_caller_that_goes_away_leaves_nothing(self) -> None:
        gate = threading.Event()
        self.addCleanup(gate.set)

        def waiting(service: str) -> Requests:
            yield from head(service)
            yield from pieces(CONTENT[:MAX_PIECE])
            gate.wait(60)

        for service in ("S", "D"):
            await self.upload(upload(b"before", service=service))
            call = self.operator.UploadFile.future(waiting(service))
            await self.when(lambda: self.open_files() > self.open_before)
            call.cancel()
            await self.nothing_is_left()
            self.assertEqual(await self.content(service, "n"), b"before")

    async def test_one_that_drips(self) -> None:
        """There are few places for uploads: who is too slow is sent away."""

        def dripping() -> Requests:
            yield from head("D")
            self.seconds_were_read.wait(60)  # the upload has begun
            self.seconds += 60 + len(CONTENT) / (16 * 1024) + 1
            yield from pieces(b"x")

        await self.assert_upload_refused(
            "an upload must have more than 16384 bytes a second", dripping(), code="DEADLINE_EXCEEDED"
        )
        await self.nothing_is_left()

    async def test_store_file_and_delete_file_go_where_clients_look(self) -> None:
        request = admin.StoreFileRequest(service_name="D", file_name="x/y", data=b"data")
        await self.call("StoreFile", request)
        self.assertEqual((self.root / "x" / "y").read_bytes(), b"data")
        for _ in range(2):  # a missing file is no error
            await self.call("DeleteFile", admin.DeleteFileRequest(service_name="D", file_name="x/y"))
        with self.assertRaises(NotFound):
            await self.content("D", "x/y")


class ListTests(FilesCase):
    async def listed(self, **fields: Any) -> list[str]:
        """All of them, by pages of two."""
        request = operator.ListFilesRequest(page_size=2, **fields)
        found: list[str] = []
        while True:
            reply = await self.call("operator.ListFiles", request)
            found += [f"{one.service_name}/{one.file_name}" for one in reply.files]
            request.page_token = reply.next_page_token
            if not request.page_token:
                return found

    async def test_all_that_clients_can_fetch(self) -> None:
        """In the database, and in folders; what the one hides is not shown."""
        for service, name in (("A", "1"), ("A", "2"), ("D", "hidden"), ("D", "hidden too"), ("Z", "3")):
            await self.store.store_file(service, name, b"data")
        (self.root / "sub").mkdir()
        (self.root / "sub" / "b").write_bytes(b"data")
        (self.root / "sub" / ".c").write_bytes(b"data")
        (self.root / "a").write_bytes(b"data")
        (self.root / "link").symlink_to(self.root / "a")
        stored, folder = ["A/1", "A/2", "Z/3"], ["D/a", "D/sub/b"]
        self.assertEqual(await self.listed(), stored + folder)
        self.assertEqual(await self.listed(service_name="A"), stored[:2])
        self.assertEqual(await self.listed(service_name="D"), folder)
        self.assertEqual(await self.listed(service_name="none"), [])

    async def test_an_entry(self) -> None:
        await self.upload(upload(b"four", service="D", name="n"))
        [entry] = (await self.call("operator.ListFiles", operator.ListFilesRequest())).files
        status = os.stat(self.root / "n")
        self.assertEqual((entry.size, entry.modified_time.ToNanoseconds()), (4, status.st_mtime_ns))
