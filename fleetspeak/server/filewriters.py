"""Files that are being written, in threads, beside the reactor."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import IO, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.errors import InvalidRecord, StoreError
from fleetspeak.interfaces import IFileWriter, IStore
from fleetspeak.records import FileStat
from fleetspeak.store.checks import MAX_FILE, check_file_names

T = TypeVar("T")
InThread = Callable[..., Deferred[Any]]
"""Calls a function with arguments in a thread."""

ELSEWHERE = "--file-store {service}=directory:PATH keeps the files of this service in a folder, whatever their size"

log = Logger()


class ThreadedWriter(ABC):
    """What one thread at a time does for a writer, and what is removed when that is given up."""

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._is_busy = self._is_given_up = self._is_over = False

    @abstractmethod
    def _remove(self) -> None:
        """In a thread, once and at last: leave nothing behind but a file that was committed."""

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread; that goes on if the caller does not wait for it."""
        done: Deferred[T] = Deferred(lambda _: None)
        self._is_busy = True

        def finish(outcome: T | Failure) -> None:
            self._is_busy = False
            if self._is_given_up:
                self._end()
            if not done.called:
                done.callback(outcome)  # a Failure becomes an errback

        self._in_thread(function, *args).addBoth(finish)
        return await done

    def close(self) -> None:
        """See `IFileWriter`."""
        self._is_given_up = True
        if not self._is_busy:
            self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._in_thread(self._remove).addErrback(
                lambda failure: log.failure("a file that was given up cannot be removed", failure=failure)
            )


@implementer(IFileWriter)
class StoredFileWriter(ThreadedWriter):
    """Gathers a file in a temporary one that has no name, and then keeps it in the store.

    The store takes a file in one piece: only then, and only for that long, it is in memory.
    """

    def __init__(self, store: IStore, service: str, name: str, size: int, in_thread: InThread) -> None:
        """Raises InvalidRecord: the store cannot keep it."""
        super().__init__(in_thread)
        check_file_names(service, name)
        if size > MAX_FILE:
            text = f"file {service}/{name} has {size} bytes, more than the {MAX_FILE} that a database takes"
            raise InvalidRecord(f"{text}; {ELSEWHERE.format(service=service)}", "size")
        self._store = store
        self._key = service, name
        self._spool: IO[bytes] | None = None

    async def write(self, data: bytes) -> None:
        """See `IFileWriter`."""
        await self._run(self._append, data)

    async def commit(self) -> FileStat:
        """See `IFileWriter`."""
        content = await self._run(self._content)
        try:
            await self._store.store_file(*self._key, content)
        except InvalidRecord as error:
            raise InvalidRecord(f"{error}; {ELSEWHERE.format(service=self._key[0])}") from error
        return await self._store.stat_file(*self._key)

    def _append(self, data: bytes) -> None:
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile()  # noqa: SIM115
            self._spool.write(data)
        except OSError as error:
            raise StoreError(f"the file cannot be kept for now: {error.strerror}") from None

    def _content(self) -> bytes:
        if self._spool is None:
            return b""
        self._spool.seek(0)
        return self._spool.read()

    def _remove(self) -> None:
        if self._spool is not None:
            self._spool.close()
