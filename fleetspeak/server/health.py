"""The health endpoint: answers as long as the process lives, and says whether clients should come."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fleetspeak.ids import ClientId, MessageId
from fleetspeak.interfaces import IStore
from fleetspeak.records import Ack
from fleetspeak.server.probes import ProbeEndpoint, ProbeRequest
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.sharing import Shared
from fleetspeak.store.outcome import only

READY_PATH = b"/readyz"

STORE_LIMIT = 2.0
"""Seconds that the store has to answer."""

LEAST_AGE = 1.0
"""Seconds for which an answer of the store counts: so often is it asked at most, however many probes there are."""

LOG_INTERVAL = 60.0

MAX_CONNECTIONS = 1000
"""So many balancers may keep theirs open; one takes a few KiB."""

_NOBODY = ClientId(b"\0" * 8)
_NO_MESSAGE = MessageId(b"\0" * 32)

log = Logger()


class Readiness:
    """Whether clients should come to this server."""

    def __init__(self, store: IStore, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._closed = "the server is starting"
        self._asking = Shared(lambda: Deferred.fromCoroutine(self._ask()), LEAST_AGE, clock.seconds)
        self._trouble = SparseLog(clock, LOG_INTERVAL)

    def begin(self) -> None:
        """Clients are let in."""
        self._closed = ""

    def end(self) -> None:
        """The server stops: clients that are connected finish, others should go elsewhere."""
        self._closed = "the server is stopping"

    async def trouble(self) -> str:
        """Why they should not come; empty if they should."""
        if self._closed:
            return self._closed
        trouble = await self._asking.get()
        return self._closed or trouble

    async def _ask(self) -> str:
        """Read, and write nothing: each must get through to the database, within the time.

        The write acknowledges a message that there is not, for a client that there is not.
        """
        asked: list[Deferred[Any]] = [
            self._store.client_data([_NOBODY]),
            only(self._store.acknowledge([Ack(_NOBODY, [_NO_MESSAGE])])),
        ]
        both: Deferred[list[Any]] = gatherResults(asked, consumeErrors=True)
        try:
            await both.addTimeout(STORE_LIMIT, self._clock)
        except Exception as error:
            if self._trouble.due():
                reason = error.subFailure.value if isinstance(error, FirstError) else error
                log.warn("not ready for clients: the store does not answer: {reason!r}", reason=reason)
            return "the store does not answer"
        return ""


class HealthProbe(ProbeRequest):
    """``/readyz``: 200 or 503.  Whatever else is asked, by whatever method: 200 and an empty body."""

    def __init__(self, readiness: Readiness, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)  # type: ignore[no-untyped-call]
        self._readiness = readiness

    def process(self) -> None:
        """Answer."""
        if self.path != READY_PATH:
            self.answer(200)
            return
        told = Deferred.fromCoroutine(self._readiness.trouble())
        self.notifyFinish().addErrback(lambda _: told.cancel())
        told.addCallbacks(self._tell, lambda _: self.answer(503))

    def _tell(self, trouble: str) -> None:
        if trouble:
            self.answer(503, trouble.encode() + b"\n")
        else:
            self.answer(200, b"ready\n")


def health_endpoint(address: tuple[str, int], readiness: Readiness, reactor: Any) -> ProbeEndpoint:
    """The endpoint, to be started."""

    def probe(*arguments: Any, **named: Any) -> HealthProbe:
        return HealthProbe(readiness, *arguments, **named)

    return ProbeEndpoint("health check service", address, probe, MAX_CONNECTIONS, reactor)
