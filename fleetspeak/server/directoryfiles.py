"""Files of a service from a folder of the server's machine."""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.errors import ConfigError, NotFound, NotReady, StoreError
from fleetspeak.interfaces import IFileStore, IFileStoreFactory, IFileWriter, IManagedFileStore, IOpenFile
from fleetspeak.records import FileStat
from fleetspeak.server import directorywriter

MAX_OPEN = 256
"""Files that are open at a time."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO would keep the thread waiting.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

T = TypeVar("T")
InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments in a thread."""


@implementer(IFileStoreFactory, IPlugin)
class DirectoryFilesFactory:
    """Makes stores of folders."""

    name = "directory"
    help = "serves the files in a folder of this machine: directory:PATH"

    def make(self, argument: str, reactor: Any) -> IFileStore:
        """See `IFileStoreFactory`."""
        path = Path(argument)
        if not argument or not path.is_dir():
            raise ConfigError(f'the folder "{argument}" of files for clients does not exist; make it first')
        directorywriter.remove_forgotten(path)
        return DirectoryFiles(path.absolute(), lambda *call: deferToThreadPool(reactor, reactor.getThreadPool(), *call))


@implementer(IManagedFileStore)
class DirectoryFiles:
    """Serves regular files below a folder, and nothing that a link leads to.

    A ``/`` in a name leads into a folder.  Names with a part that begins with a dot are not served: they are commonly
    files that are still being written.
    """

    def __init__(self, root: Path, in_thread: InThread, max_open: int = MAX_OPEN) -> None:
        self._root = root
        self._in_thread = in_thread
        self._left = max_open

    def open(self, name: str) -> Deferred[IOpenFile]:
        """See `IFileStore`."""
        parts = name.split("/")
        opened: Deferred[IOpenFile] = Deferred(_give_up)
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            opened.errback(NotFound("this is not the name of a file"))
            return opened
        if not self._left:
            opened.errback(NotReady("too many files are being sent"))
            return opened
        self._left -= 1

        def succeeded(found: tuple[int, FileStat]) -> None:
            file = OpenedFile(*found, self._in_thread, self._closed)
            if opened.called:  # nobody waits any more
                file.close()
            else:
                opened.callback(file)

        def failed(failure: Failure) -> None:
            self._closed()
            if not opened.called:
                opened.errback(failure)

        self._in_thread(_open, self._root, parts).addCallbacks(succeeded, failed)
        return opened

    def _closed(self) -> None:
        self._left += 1

    # -- what operators do

    def create(self, name: str, size: int) -> Deferred[IFileWriter]:
        """See `IManagedFileStore`."""
        return execute(directorywriter.DirectoryFileWriter, self._root, name, size, self._in_thread)

    def delete(self, name: str) -> Deferred[None]:
        """See `IManagedFileStore`."""
        return self._in_thread(directorywriter.delete, self._root, name)

    def page(self, after: str, limit: int) -> Deferred[list[tuple[str, FileStat]]]:
        """See `IManagedFileStore`."""
        return self._in_thread(directorywriter.page, self._root, after, limit)


def _give_up(opened: Deferred[IOpenFile]) -> None:
    """The thread cannot be stopped; what it opens is closed at once."""


@implementer(IOpenFile)
class OpenedFile:
    """A file that is being sent."""

    def __init__(self, descriptor: int, stat: FileStat, in_thread: InThread, closed: Callable[[], None]) -> None:
        self.stat = stat
        self._descriptor = descriptor
        self._in_thread = in_thread
        self._closed = closed
        self._is_reading = False
        self._is_closing = False

    async def read(self, first: int, length: int) -> bytes:
        """See `IOpenFile`."""
        self._is_reading = True
        done: Deferred[bytes] = Deferred(lambda _: None)

        def finish(outcome: bytes | Failure) -> None:
            self._is_reading = False
            if self._is_closing:
                self._close()
            if not done.called:
                done.callback(outcome)  # a Failure becomes an errback

        self._in_thread(_read, self._descriptor, self.stat, first, length).addBoth(finish)
        return await done

    def close(self) -> None:
        """Close it, once a thread has done with it."""
        self._is_closing = True
        if not self._is_reading:
            self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._closed()


# -- in a thread


def _open(root: Path, parts: list[str]) -> tuple[int, FileStat]:
    """Go down folder by folder, each opened from the one above it, so that no link is followed."""
    try:
        current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for index, part in enumerate(parts):
            above = current
            try:
                current = os.open(part, _FILE if index == len(parts) - 1 else _DIRECTORY, dir_fd=above)
            finally:
                os.close(above)
    except (OSError, ValueError):  # a link, a name that is too long, what may not be read: all the same to a client
        raise NotFound("there is no such file") from None
    status = os.fstat(current)
    if not modes.S_ISREG(status.st_mode):
        os.close(current)
        raise NotFound("it is not a regular file")
    return current, FileStat(status.st_mtime_ns, status.st_size)


def _read(descriptor: int, stat: FileStat, first: int, length: int) -> bytes:
    try:
        data = os.pread(descriptor, length, first)
        status = os.fstat(descriptor)
    except OSError as error:
        raise StoreError(f"the file cannot be read: {error.strerror}") from None
    if len(data) != length or FileStat(status.st_mtime_ns, status.st_size) != stat:
        raise StoreError("the file was changed while it was sent; write a new one beside it and rename that")
    return data
