"""From server to server, until one of them gives a file."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from fleetspeak.client.comms.http import reason_of
from fleetspeak.client.comms.servers import Server
from fleetspeak.client.download import DiskProblem
from fleetspeak.client.stats import Stats
from fleetspeak.errors import FileUnavailable

PROGRESS = 64 * 1024
"""Bytes that a server must have given before its connection broke, to be asked for the rest at once."""

_T = TypeVar("_T")


class Source(Protocol):
    """What the communicator does for those who fetch files."""

    def servers(self) -> Sequence[Server]:
        """In which order they are tried now."""

    def get(self, server: Server, path: str, headers: Sequence[tuple[str, str]]) -> Deferred[IResponse]:
        """Make a request; fires with the head of the response.  Cancelling ends it."""


class Walk:
    """One walk along the servers, in the order that they have for contacts, which it does not change."""

    def __init__(
        self, service: str, name: str, deadline: float, request_limit: float, clock: IReactorTime, stats: Stats
    ) -> None:
        """@param request_limit: seconds for one request at most."""
        self._file = service, name
        self.deadline = deadline
        """By `clock`; nothing is begun after it, and what runs then is cancelled."""
        self._request_limit = request_limit
        self._clock = clock
        self._stats = stats
        self.cancelled = False
        """Set before what runs is cancelled, because the errors that this leads to look like any others."""

    async def first_success(
        self,
        servers: Sequence[Server],
        attempt: Callable[[Server], Coroutine[Any, Any, _T]],
        size: Callable[[], int] = lambda: 0,
    ) -> _T:
        """What `attempt` gives for the first server for which it gives something.

        @param size: how much there is already; a server whose connection broke is asked again if it grew.
        @raise FileUnavailable: it failed for each.
        @raise DiskProblem: what does not depend on the server.
        """
        cause: BaseException = FileUnavailable("there is no server")
        for position, server in enumerate(servers):
            grows = True
            while grows:
                left = self.deadline - self._clock.seconds()
                if left <= 0:
                    raise _unavailable(cause)
                # So that one that is silent leaves time for the others.
                limit = min(self._request_limit, left / (len(servers) - position))
                before = size()
                try:
                    return await self._attempt(server, attempt(server), limit)
                except DiskProblem:
                    raise
                except Exception as error:  # of whatever kind: Twisted has many for what was cancelled
                    if self.cancelled:
                        raise CancelledError from error
                    cause = error
                grows = size() - before >= PROGRESS
        raise _unavailable(cause)

    async def _attempt(self, server: Server, attempt: Coroutine[Any, Any, _T], limit: float) -> _T:
        running: Deferred[_T] = Deferred.fromCoroutine(attempt)
        try:
            given = await running.addTimeout(limit, self._clock, _timed_out)
        except Exception as error:
            self._stats.file_fetched(str(server), *self._file, False, error)
            raise
        self._stats.file_fetched(str(server), *self._file, given is not None, None)
        return given


def _timed_out(result: object, seconds: float) -> Any:
    raise TimeoutError(f"not complete within {seconds:.0f} s")


def _unavailable(cause: BaseException) -> FileUnavailable:
    text = f"unable to retrieve file, last attempt failed with: {reason_of(cause)}"
    return FileUnavailable(text, cause.status if isinstance(cause, FileUnavailable) else None)
