"""Files of the store, for many who read them at a time."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from fleetspeak.errors import NotReady
from fleetspeak.interfaces import IFileStore, IOpenFile, IStore
from fleetspeak.records import FileStat, StoredFile

MAX_HELD = 256 * 1024 * 1024
"""Bytes of all files together that are being sent at a time."""

_Key = tuple[str, str]


class Content:
    """A file in memory, for as long as somebody holds it."""

    __slots__ = ("__weakref__", "file")

    def __init__(self, file: StoredFile) -> None:
        self.file = file

    @property
    def stat(self) -> FileStat:
        """Its time and size."""
        return FileStat(self.file.modified_ns, len(self.file.data))


class StoredFiles:
    """Reads files, each one only once for all who want it at the same time: a whole fleet asks for a new file."""

    def __init__(self, store: IStore, max_held: int = MAX_HELD) -> None:
        self._store = store
        self._max_held = max_held
        self._held: WeakValueDictionary[_Key, Content] = WeakValueDictionary()
        self._waiting: dict[_Key, list[Deferred[Content]]] = {}

    def stat(self, service: str, name: str) -> Deferred[FileStat]:
        """Time and size.  Fails with NotFound."""
        return self._store.stat_file(service, name)

    def read(self, service: str, name: str, modified_ns: int) -> Deferred[Content]:
        """The file, as it was then or is now.  Fails with NotFound; NotReady: too much is being sent."""
        key = service, name
        done: Deferred[Content] = Deferred(lambda one: self._forget(key, one))
        held = self._held.get(key)
        if held is not None and held.file.modified_ns == modified_ns:
            done.callback(held)
        elif key in self._waiting:
            self._waiting[key].append(done)
        elif sum(one.stat.size for one in list(self._held.values())) > self._max_held:
            done.errback(NotReady("too many files are being sent"))
        else:
            self._waiting[key] = [done]
            self._store.read_file(service, name).addCallbacks(
                self._read, self._failed, callbackArgs=(key,), errbackArgs=(key,)
            )
        return done

    def _forget(self, key: _Key, waiter: Deferred[Content]) -> None:
        """Whoever waited has gone; the others still wait."""
        if waiter in self._waiting.get(key, ()):
            self._waiting[key].remove(waiter)

    def _read(self, file: StoredFile, key: _Key) -> None:
        content = self._held[key] = Content(file)
        for waiter in self._waiting.pop(key):
            waiter.callback(content)

    def _failed(self, failure: Failure, key: _Key) -> None:
        for waiter in self._waiting.pop(key):
            waiter.errback(failure)


@implementer(IOpenFile)
class OpenStoredFile:
    """A file of the store that is being sent."""

    def __init__(self, files: StoredFiles, key: _Key, stat: FileStat) -> None:
        self.stat = stat
        self._files = files
        self._key = key
        self._content: Content | None = None

    async def read(self, first: int, length: int) -> bytes:
        """See `IOpenFile`.  The first call reads all of it, which may have been replaced meanwhile."""
        if self._content is None:
            self._content = await self._files.read(*self._key, self.stat.modified_ns)
            self.stat = self._content.stat
        return self._content.file.data[first : first + length]

    def close(self) -> None:
        """Nothing: it is forgotten with this object."""


class Files:
    """All files for clients: those of some services have stores of their own."""

    def __init__(self, stored: StoredFiles, stores: Mapping[str, IFileStore] | None = None) -> None:
        """`stores` by the name of the service."""
        self._stored = stored
        self._stores = dict(stores or {})

    async def open(self, service: str, name: str) -> IOpenFile:
        """Open a file.  Raises NotFound; NotReady: not now."""
        store = self._stores.get(service)
        if store is not None:
            return await store.open(name)
        return OpenStoredFile(self._stored, (service, name), await self._stored.stat(service, name))
