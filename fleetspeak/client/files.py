"""Files that servers have for their clients: into memory if they are small, otherwise to the disk."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IResponse

from fleetspeak.client.comms.bodies import read_body
from fleetspeak.client.comms.http import MAX_REFUSAL
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.download import BodyToDisk, Disk, DiskProblem, head_of
from fleetspeak.client.filewalk import Source, Walk
from fleetspeak.client.partialfile import PartialFile
from fleetspeak.client.state import InThread
from fleetspeak.client.stats import Stats
from fleetspeak.core import download
from fleetspeak.errors import FileUnavailable, FleetspeakError, ProtocolError
from fleetspeak.program.awaiting import when_done
from fleetspeak.records import FetchedFile
from fleetspeak.wire import filerequest

POLLING_LIMIT = 300.0
"""Seconds for one request of a client that polls; upstream's.  What takes longer is gone on with by another request."""

STREAMING_LIMIT = 900.0
"""The same for a client that streams; upstream's."""

PATIENCE = 3600.0
"""Seconds for a file as a whole, unless the caller says otherwise."""

MAX_FILE = 1024**3
"""Bytes of a file, unless the caller says otherwise."""

_SUCCESS = 200
_T = TypeVar("_T")


class Files:
    """Asks one server after another, over the transport of the communicator and as its present identity.

    @param request_limit: seconds that one request may take.
    """

    _log = Logger()

    def __init__(
        self, labels: Sequence[str], stats: Stats, clock: IReactorTime, in_thread: InThread, request_limit: float
    ) -> None:
        self._labels = labels
        self._stats = stats
        self._clock = clock
        self._in_thread = in_thread
        self.request_limit = request_limit
        self._source: Source | None = None
        self._waiting: list[Deferred[None]] = []
        self._running: dict[Deferred[Any], Callable[[], None]] = {}
        self._targets: set[Path] = set()
        self._closed = False

    def start(self, source: Source) -> None:
        """From now on there is a communicator to ask by; whoever asked before waited for it."""
        self._source = source
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    async def stop(self) -> None:
        """Cancel what runs; what there is of a file is kept for another time."""
        self._closed = True
        for cancel in list(self._running.values()):
            cancel()
        while self._running:
            await when_done(next(iter(self._running)))

    def read(self, service: str, name: str, *, max_bytes: int, timeout: float = PATIENCE) -> Deferred[bytes]:
        """A small file, in memory.  Cancellable.

        @param timeout: seconds.
        @raise FileUnavailable: (in the Deferred) no server gave it; its text says why the last one did not.
        """

        async def work(walk: Walk, source: Source) -> bytes:
            async def attempt(server: Server) -> bytes:
                response = await self._ask(source, server, service, name, [])
                body = await read_body(response, max_bytes)
                if response.code != _SUCCESS:
                    raise FileUnavailable(f"failed with http response code: {response.code}", response.code)
                return body

            return await walk.first_success(source.servers(), attempt)

        return self._begin(service, name, timeout, work)

    def fetch(
        self,
        service: str,
        name: str,
        target: Path,
        *,
        since: float | None = None,
        max_bytes: int = MAX_FILE,
        timeout: float = PATIENCE,
    ) -> Deferred[FetchedFile | None]:
        """Bring a file to the disk, if it is newer.  See `IClientServiceContext.get_file`."""
        target = target.absolute()
        if target in self._targets:
            return fail(FleetspeakError(f"a file is being fetched to {target} already"))

        async def work(walk: Walk, source: Source) -> FetchedFile | None:
            self._targets.add(target)
            part = PartialFile(target, filerequest.path(service, name))
            disk = Disk(part, target, self._in_thread)
            end = part.keep
            try:
                await disk.run(part.open)
                fetched = await walk.first_success(
                    source.servers(),
                    lambda server: self._to_disk(source, server, wanted, disk),
                    lambda: part.size,
                )
                if fetched is None:
                    end = part.discard
                else:
                    await disk.run(part.finish)
                return fetched
            except DiskProblem:
                end = part.discard
                raise
            finally:
                await disk.run(end).addErrback(self._not_kept, target)
                self._targets.discard(target)

        wanted = _Wanted(service, name, since, max_bytes)
        return self._begin(service, name, timeout, work)

    async def _to_disk(self, source: Source, server: Server, wanted: _Wanted, disk: Disk) -> FetchedFile | None:
        """What one server gives, on the disk completely; None if the file is not newer."""
        part = disk.file
        await disk.settled()
        asked = download.headers(wanted.since, part.kept)
        response = await self._ask(source, server, wanted.service, wanted.name, asked)
        try:
            verdict = download.judge(head_of(response), part.kept, wanted.max_bytes)
        except FleetspeakError:
            with suppress(Exception):  # what it says besides is of no interest
                await read_body(response, MAX_REFUSAL)
            raise
        if isinstance(verdict, download.Content):
            return await _take(response, verdict, disk, wanted.max_bytes)
        await read_body(response, MAX_REFUSAL)
        if isinstance(verdict, download.Unchanged):
            return None
        await disk.run(part.begin, download.NOTHING)
        return await self._to_disk(source, server, wanted, disk)

    async def _ask(
        self, source: Source, server: Server, service: str, name: str, headers: Sequence[tuple[str, str]]
    ) -> IResponse:
        labels = [("X-Fleetspeak-Labels", label) for label in self._labels]
        return await source.get(server, filerequest.path(service, name), [*headers, *labels])

    def _begin(
        self, service: str, name: str, timeout: float, work: Callable[[Walk, Source], Coroutine[Any, Any, _T]]
    ) -> Deferred[_T]:
        """Run `work` when there is a communicator.  Cancelling gives it up, and does not wait for what that takes."""
        if self._closed:
            return fail(CancelledError("the client is stopping"))
        walk = Walk(service, name, self._clock.seconds() + timeout, self.request_limit, self._clock, self._stats)
        running = Deferred.fromCoroutine(self._when_started(walk, work))

        def cancel() -> None:
            if not walk.cancelled:  # a second time it would cut short the keeping of what there is
                walk.cancelled = True
                running.cancel()

        def over(outcome: Any) -> None:
            self._running.pop(running, None)
            if not result.called:
                result.callback(outcome)  # a Failure makes it fail

        result: Deferred[_T] = Deferred(lambda _: cancel())
        self._running[running] = cancel
        running.addBoth(over)
        return result

    async def _when_started(self, walk: Walk, work: Callable[[Walk, Source], Coroutine[Any, Any, _T]]) -> _T:
        if self._source is None:
            started: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(started)
            await started.addTimeout(walk.deadline - self._clock.seconds(), self._clock)
        assert self._source is not None
        return await work(walk, self._source)

    def _not_kept(self, failure: Any, target: Path) -> None:
        self._log.warn("what there is of {path} could not be kept: {error}", path=target, error=failure.value)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked for."""

    service: str
    name: str
    since: float | None
    max_bytes: int


async def _take(response: IResponse, content: download.Content, disk: Disk, max_bytes: int) -> FetchedFile:
    """Write the body that follows."""
    total = content.version.total
    await disk.run(disk.file.go_on if content.first else disk.file.begin, content.version)
    body = BodyToDisk(disk, (max_bytes if total is None else total) - content.first)
    response.deliverBody(body)  # type: ignore[no-untyped-call]
    await body.done
    if total is not None and disk.file.size != total:
        raise ProtocolError(f"the file ended after {disk.file.size} of {total} bytes")
    return FetchedFile(disk.file.size, content.version.modified)
