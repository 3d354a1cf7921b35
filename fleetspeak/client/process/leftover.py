"""Messages that the server takes for delivered although no process of their service has dealt with them.

A process may end before it has read what is in its pipe; the next one gets that.  It outlives a restart of the service,
and, where the client has a spool, the client: the server will not send these messages again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from fleetspeak.client.process.handedover import Frame
from fleetspeak.client.state import InThread
from fleetspeak.security.files import PRIVATE, sync_directory, write_atomically
from fleetspeak.wire import spoolrecords

MAX_FILE = 64 * 1024 * 1024
"""Bytes of a file that are read back; a pipe holds no more than one message of 2 MiB and 64 KiB of others."""

_LONGEST_NAME = 200
_SEED = 0


class Shelf(Protocol):
    """Where the left-over messages of one service are kept while the client is not there.  Blocks; raises OSError."""

    def read(self) -> list[Frame]:
        """What was put there last."""

    def write(self, frames: list[Frame]) -> None:
        """Put these there instead, durably."""


class NoShelf:
    """Nothing is kept."""

    def read(self) -> list[Frame]:
        return []

    def write(self, frames: list[Frame]) -> None:
        """They are gone with the client."""


class FileShelf:
    """A file of spool records, one for each message; a record's number is one more than the message was repeated."""

    _log = Logger()

    def __init__(self, folder: Path, service: str) -> None:
        name = quote(service, safe="")
        self._path = folder / (name if len(name) <= _LONGEST_NAME else sha256(service.encode()).hexdigest())

    def read(self) -> list[Frame]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE)
        except FileNotFoundError:
            return []
        scanned = spoolrecords.scan(data, _SEED, whole=True)
        if scanned.damages:
            self._log.error(
                "{path} is damaged: of the messages that were left over {count} can be read",
                path=self._path,
                count=len(scanned.records),
            )
        return [Frame(record.body, record.number - 1) for record in scanned.records]

    def write(self, frames: list[Frame]) -> None:
        if frames:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            records = (spoolrecords.encode(frame.repeats + 1, frame.data, _SEED) for frame in frames)
            write_atomically(self._path, b"".join(records), PRIVATE)
        elif self._path.exists():
            self._path.unlink()
            sync_directory(self._path.parent)


class LeftOver:
    """Those of one service, oldest first."""

    _log = Logger()

    def __init__(self, service: str, shelf: Shelf, in_thread: InThread) -> None:
        self._service = service
        self._shelf = shelf
        self._in_thread = in_thread
        self._frames: deque[Frame] = deque()
        self._line = DeferredLock()
        self._loaded = False
        self._on_shelf = False

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def first(self) -> Frame:
        """The one to be handed over next."""
        return self._frames[0]

    async def load(self) -> None:
        """Take what an earlier run of the client has left; once."""
        if self._loaded:
            return
        self._loaded = True
        try:
            frames = await self._in_thread(self._shelf.read)
        except OSError as error:
            self._failed("read", error)
            return
        self._on_shelf = bool(frames)
        self._frames.extend(frames)
        if frames:
            self._log.info(
                "service {service}: {count} messages of the server were left over by an earlier run",
                service=self._service,
                count=len(frames),
            )

    async def put_back(self, frames: Iterable[Frame]) -> None:
        """A process has left these, which are older than those that are here.  Done when they are kept."""
        self._frames.extendleft(reversed(list(frames)))
        if self._frames:
            await self._keep()

    async def delivered(self) -> None:
        """A process has the first one.  Until it has the last one, all of them would come again after a kill."""
        self._frames.popleft()
        if not self._frames and self._on_shelf:
            await self._keep()

    async def _keep(self) -> None:
        await self._line.acquire()
        try:
            frames = list(self._frames)
            await self._in_thread(self._shelf.write, frames)
            self._on_shelf = bool(frames)
        except OSError as error:
            self._failed("write", error)
        finally:
            self._line.release()

    def _failed(self, what: str, error: OSError) -> None:
        self._log.error(
            "service {service}: cannot {what} the messages that a process left over: {error}; "
            "they are lost if the client ends before the next process has them",
            service=self._service,
            what=what,
            error=error,
        )


class LeftOvers:
    """The left-over messages of all services, for as long as the client lives."""

    def __init__(self, folder: Path | None, in_thread: InThread) -> None:
        """@param folder: where they are kept meanwhile, made in a folder that is there by then; None: nowhere."""
        self._folder = folder
        self._in_thread = in_thread
        self._services: dict[str, LeftOver] = {}

    def of(self, service: str) -> LeftOver:
        """Those of this service, whichever instance of it asks."""
        if service not in self._services:
            shelf = NoShelf() if self._folder is None else FileShelf(self._folder, service)
            self._services[service] = LeftOver(service, shelf, self._in_thread)
        return self._services[service]
