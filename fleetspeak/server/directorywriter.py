"""Files that operators put into a folder of files for clients, and what else they do there.  In threads."""

from __future__ import annotations

import errno
import heapq
import os
import secrets
import stat as modes
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zope.interface import implementer

from fleetspeak.errors import InvalidRecord, StoreError
from fleetspeak.interfaces import IFileWriter
from fleetspeak.records import FileStat
from fleetspeak.server.filewriters import InThread, ThreadedWriter
from fleetspeak.store.timing import modified_after

PREFIX = ".upload-"
"""Of files that are being written: names that begin with a dot are not served."""

FORGOTTEN_AFTER = 24 * 60 * 60
"""Seconds without a change after which such a file is removed at start: the server that wrote it is gone."""

MAX_PART = 255
"""Bytes in a part of a name, as file systems have it."""

FILE_MODE = 0o644
FOLDER_MODE = 0o755

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.EEXIST}
"""Errors that say that a name cannot be one of a file here."""


def parts_of(name: str) -> list[str]:
    """The parts of a name that can be one of a file.  Raises InvalidRecord."""
    parts = name.split("/")
    for part in parts:
        try:
            size = len(part.encode())
        except UnicodeEncodeError:
            size = 0
        if not 0 < size <= MAX_PART or part.startswith(".") or "\0" in part:
            raise InvalidRecord(f"{name[:100]!r} cannot be the name of a file in a folder", "file_name")
    return parts


@implementer(IFileWriter)
class DirectoryFileWriter(ThreadedWriter):
    """Writes a file beside all others, and gives it its name when it is complete and on the disk."""

    def __init__(self, root: Path, name: str, size: int, in_thread: InThread) -> None:
        """Raises InvalidRecord."""
        super().__init__(in_thread)
        self._root = root
        self._parts = parts_of(name)
        self._size = size
        self._temporary = root / f"{PREFIX}{secrets.token_hex(8)}"
        self._descriptor: int | None = None

    async def write(self, data: bytes) -> None:
        """See `IFileWriter`."""
        await self._run(self._append, data)

    async def commit(self) -> FileStat:
        """See `IFileWriter`."""
        return await self._run(self._finish)

    def _append(self, data: bytes) -> None:
        try:
            descriptor = self._open()
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError as error:
            raise _failure(error) from None

    def _open(self) -> int:
        if self._descriptor is None:
            free = os.statvfs(self._root)
            if self._size > free.f_bavail * free.f_frsize:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o600)
        return self._descriptor

    def _finish(self) -> FileStat:
        try:
            descriptor = self._open()
            folder = _folder(self._root, self._parts[:-1], make=True)
            try:
                self._date(descriptor, folder)
                os.fchmod(descriptor, FILE_MODE)
                os.fsync(descriptor)
                os.rename(self._temporary, self._parts[-1], dst_dir_fd=folder)
                os.fsync(folder)
            finally:
                os.close(folder)
            status = os.fstat(descriptor)
            return FileStat(status.st_mtime_ns, status.st_size)
        except OSError as error:
            raise _failure(error) from None

    def _date(self, descriptor: int, folder: int) -> None:
        """Give it a time in a later second than that of the file which it replaces."""
        with suppress(FileNotFoundError):
            before = os.stat(self._parts[-1], dir_fd=folder, follow_symlinks=False)
            modified_ns = modified_after(before.st_mtime_ns, os.fstat(descriptor).st_mtime_ns)
            os.utime(descriptor, ns=(modified_ns, modified_ns))

    def _remove(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            with suppress(FileNotFoundError):  # it has its name
                os.unlink(self._temporary)


def delete(root: Path, name: str) -> None:
    """Delete a file; a missing one is no error.  Raises StoreError."""
    parts = parts_of(name)
    try:
        folder = _folder(root, parts[:-1])
        try:
            if not modes.S_ISDIR(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(parts[-1], dir_fd=folder)
                os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno not in {errno.ENOENT, *_OURS}:
            raise _failure(error) from None


def page(root: Path, after: str, limit: int) -> list[tuple[str, FileStat]]:
    """Files by name, behind `after`.  Raises StoreError."""
    try:
        found = heapq.nsmallest(limit, (one for one in _walk(root, "") if one[0] > after))
    except OSError as error:
        raise _failure(error) from None
    return found


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, FileStat]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield prefix + entry.name, FileStat(status.st_mtime_ns, status.st_size)


def remove_forgotten(root: Path) -> None:
    """Remove what servers that were killed were writing."""
    before = time.time() - FORGOTTEN_AFTER
    with suppress(OSError):
        for path in root.glob(f"{PREFIX}*"):
            with suppress(OSError):
                if path.lstat().st_mtime < before:
                    path.unlink()


def _folder(root: Path, parts: list[str], *, make: bool = False) -> int:
    """Open a folder below the root, each from the one above it, so that no link is followed."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        above = current
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, FOLDER_MODE, dir_fd=above)
            current = os.open(part, _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return current


def _failure(error: OSError) -> StoreError:
    if error.errno in _OURS:
        return InvalidRecord(f"there cannot be a file of this name: {error.strerror}", "file_name")
    return StoreError(f"the folder of files for clients cannot be written: {error.strerror}")
