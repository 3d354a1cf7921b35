"""The file operations of the spool, and nothing else: tests put faults in their place."""

from __future__ import annotations

import os
from pathlib import Path

# Spares the time of the last change, and with it a write of the file system's journal, where that can be had.
_sync = getattr(os, "fdatasync", os.fsync)


class Files:
    """What the spool asks of the system.  Everything blocks, and raises OSError."""

    def create(self, path: Path) -> int:
        """Make a file that must not be there yet, for its owner alone; its name is on the disk before this returns.

        @return: a descriptor to write to.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            self.sync_folder(path.parent)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return descriptor

    def open_to_append(self, path: Path) -> int:
        """A descriptor that writes at the end of a file."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Return when the content of the file, and what it takes to read it, is on the disk."""
        _sync(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in the folder are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file."""
        os.truncate(path, size)

    def read(self, path: Path, start: int, size: int) -> bytes:
        """Up to so many bytes from there."""
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def replace(self, path: Path, data: bytes) -> None:
        """Write the whole content of a file: the new one or the old one is there, whatever happens."""
        new = path.with_name(path.name + ".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            self.write(descriptor, data)
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(path)

    def remove(self, path: Path) -> None:
        """Delete a file, if it is there."""
        path.unlink(missing_ok=True)

    def is_gone(self, descriptor: int) -> bool:
        """Has somebody deleted the file?"""
        return os.fstat(descriptor).st_nlink == 0
