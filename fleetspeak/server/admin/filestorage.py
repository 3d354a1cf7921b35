"""Where the API puts files: each service has its own place, the store or one that is configured for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from fleetspeak.interfaces import IFileStore, IFileWriter, IManagedFileStore, IOperatorStore, IStore
from fleetspeak.listings import ListedFile
from fleetspeak.server.admin.operations import Refused
from fleetspeak.server.filewriters import InThread, StoredFileWriter

Place = tuple[int, str, str]
"""Where a list goes on: 0 or 1 for in the database or elsewhere, service and name."""

START: Place = (0, "", "")


class FileStorage:
    """Writes, deletes and lists files, wherever they are."""

    def __init__(
        self,
        store: IStore,
        stores: Mapping[str, IFileStore],
        in_thread: InThread,
    ) -> None:
        """@param stores: by service, for those whose files are not in the store."""
        self._store = store
        self._operators: IOperatorStore | None = IOperatorStore(store, None)
        self._stores = dict(stores)
        self._in_thread = in_thread

    async def create(self, service: str, name: str, size: int) -> IFileWriter:
        """Begin to write a file.  Raises InvalidRecord; Refused: files of this service cannot be written here."""
        if service in self._stores:
            writer: IFileWriter = await self._managed(service).create(name, size)
            return writer
        return StoredFileWriter(self._store, service, name, size, self._in_thread)

    async def keep(self, service: str, name: str, data: bytes) -> None:
        """Write a file that is here already."""
        if service not in self._stores:
            await self._store.store_file(service, name, data)
            return
        writer = await self.create(service, name, len(data))
        try:
            await writer.write(data)
            await writer.commit()
        finally:
            writer.close()

    async def delete(self, service: str, name: str) -> None:
        """Delete a file; a missing one is no error."""
        if service in self._stores:
            await self._managed(service).delete(name)
        else:
            await self._store.delete_file(service, name)

    def _managed(self, service: str) -> Any:
        place = self._stores[service]
        return IManagedFileStore(place, None) or _refuse(service)

    async def page(self, service: str, after: Place, limit: int) -> list[tuple[Place, ListedFile]]:
        """Files behind `after`, those in the database first; of all services if `service` is empty."""
        if service in self._stores:
            self._managed(service)
        found: list[tuple[Place, ListedFile]] = []
        if after[0] == 0 and service not in self._stores:
            found += await self._stored(service, after[1:], limit)
            after = (1, "", "")
        for one in sorted(self._stores):
            place = IManagedFileStore(self._stores[one], None)
            if len(found) >= limit or service not in ("", one) or place is None or one < after[1]:
                continue
            names = await place.page(after[2] if one == after[1] else "", limit - len(found))
            found += [((1, one, name), ListedFile(one, name, stat)) for name, stat in names]
        return found

    async def _stored(self, service: str, after: tuple[str, str], limit: int) -> list[tuple[Place, ListedFile]]:
        if self._operators is None:
            raise Refused("UNIMPLEMENTED", "the store of this server does not list its files")
        found: list[tuple[Place, ListedFile]] = []
        while len(found) < limit:
            files = await self._operators.file_page(service, after, limit)
            # What clients cannot fetch is not shown.
            found += [((0, *one[:2]), one) for one in files if one.service not in self._stores]
            if len(files) < limit:
                break
            after = files[-1][:2]
        return found[:limit]


def _refuse(service: str) -> NoReturn:
    raise Refused("FAILED_PRECONDITION", f"the files of service {service} are kept where this server cannot write")
