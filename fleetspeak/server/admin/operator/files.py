"""Files for clients: uploaded piece by piece, and listed by pages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from fleetspeak.errors import InvalidRecord
from fleetspeak.interfaces import IFileWriter
from fleetspeak.listings import ListedFile
from fleetspeak.pb import operator
from fleetspeak.records import FileStat
from fleetspeak.server.admin.filestorage import START, FileStorage
from fleetspeak.server.admin.operations import Refused
from fleetspeak.server.admin.operator.paging import Page

MAX_PIECE = 1024 * 1024
"""Bytes in one request of an upload."""

MAX_SIZE = 2**62

MIN_RATE = 16 * 1024
SLACK = 60.0
"""Bytes a second that an upload must have on the whole, and seconds that it may take longer: only so many run at a
time."""


class FileOperations:
    """The operations on files."""

    def __init__(self, files: FileStorage, seconds: Callable[[], float]) -> None:
        """`seconds` is a steady clock, such as `reactor.seconds`."""
        self._files = files
        self._seconds = seconds

    async def upload_file(self) -> Upload:
        """Take a file piece by piece."""
        return Upload(self._files, self._seconds)

    async def list_files(self, request: operator.ListFilesRequest) -> operator.ListFilesResponse:
        """A page of files by service and name, those in the database first."""
        page = Page(request, int, str, str)
        kind, *after = page.key or START
        found = await self._files.page(request.service_name, (kind, *after), page.look)
        files, token = page.cut(found, lambda one: one[0])
        return operator.ListFilesResponse(files=[entry_of(one) for _, one in files], next_page_token=token)


class Upload:
    """One file on its way; a `fleetspeak.server.admin.served.Receiver`.

    It takes the place of an earlier one when all of it is there, and is what it was said to be; otherwise it leaves
    nothing.
    """

    def __init__(self, files: FileStorage, seconds: Callable[[], float]) -> None:
        self._files = files
        self._seconds = seconds
        self._began = seconds()
        self._head: operator.UploadFileRequest.Head | None = None
        self._writer: IFileWriter | None = None
        self._received = 0
        self._hash = hashlib.sha256()
        self._is_closed = False

    async def take(self, request: operator.UploadFileRequest) -> None:
        """Take the head, or the next piece.  Raises InvalidRecord."""
        part = request.WhichOneof("part")
        if part == "head":
            await self._begin(request.head)
        elif part == "data":
            await self._append(request.data)
        else:
            raise InvalidRecord("a request of an upload has a head or data", "data")

    async def _begin(self, head: operator.UploadFileRequest.Head) -> None:
        if self._head is not None:
            raise InvalidRecord("an upload has one head, in its first request", "head")
        if not head.service_name or not head.file_name:
            field = "head.file_name" if head.service_name else "head.service_name"
            raise InvalidRecord("file must have service_name and file_name", field)
        if head.size > MAX_SIZE:
            raise InvalidRecord(f"size must be at most {MAX_SIZE}", "head.size")
        if len(head.sha256) not in (0, self._hash.digest_size):
            raise InvalidRecord(f"sha256 must be {self._hash.digest_size} bytes", "head.sha256")
        self._head = head
        writer = await self._files.create(head.service_name, head.file_name, head.size)
        if self._is_closed:
            writer.close()
        self._writer = writer

    async def _append(self, data: bytes) -> None:
        if self._head is None or self._writer is None:
            raise InvalidRecord("the first request of an upload must be its head", "head")
        if len(data) > MAX_PIECE:
            raise InvalidRecord(f"{len(data)} bytes in one request, only {MAX_PIECE} allowed", "data")
        self._received += len(data)
        if self._received > self._head.size:
            raise InvalidRecord(f"more bytes came than the {self._head.size} of the head", "head.size")
        if self._seconds() - self._began > SLACK + self._head.size / MIN_RATE:
            raise Refused("DEADLINE_EXCEEDED", f"an upload must have more than {MIN_RATE} bytes a second")
        self._hash.update(data)
        await self._writer.write(data)

    async def finish(self) -> operator.FileEntry:
        """Put the file in its place.  Raises InvalidRecord: it is not what was announced."""
        head, writer = self._head, self._writer
        if head is None or writer is None:
            raise InvalidRecord("an upload begins with its head", "head")
        if self._received != head.size:
            raise InvalidRecord(f"{self._received} bytes came, not the {head.size} of the head", "head.size")
        if head.sha256 and head.sha256 != self._hash.digest():
            raise InvalidRecord("the bytes that came do not have the sha256 of the head", "head.sha256")
        stat: FileStat = await writer.commit()
        return entry_of(ListedFile(head.service_name, head.file_name, stat))

    def close(self) -> None:
        """Leave nothing, unless the file is in its place."""
        self._is_closed = True
        if self._writer is not None:
            self._writer.close()


def entry_of(listed: ListedFile) -> operator.FileEntry:
    """A file, as the API shows it."""
    entry = operator.FileEntry(service_name=listed.service, file_name=listed.name, size=listed.stat.size)
    entry.modified_time.FromNanoseconds(listed.stat.modified_ns)
    return entry
