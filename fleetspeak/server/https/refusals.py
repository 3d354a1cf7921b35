"""Refusals: an answer for the client, and a line for the operator."""

from __future__ import annotations

from twisted.internet.defer import TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fleetspeak import ids
from fleetspeak.errors import FleetspeakError, NotAuthorized, NotReady, StoreError
from fleetspeak.server.contact.identify import Identity
from fleetspeak.server.https.streamrequest import StreamedRequest, show_address
from fleetspeak.server.services.sparselog import SparseLog
from fleetspeak.server.stats import NO_STATS, ServerStats

LOG_INTERVAL = 1.0
"""Seconds between two lines: what a whole fleet does wrong must not fill the disk."""

log = Logger()


class Refusals:
    """Answers requests that cannot be served, counts and logs that, the latter sparsely."""

    def __init__(self, clock: IReactorTime, interval: float = LOG_INTERVAL, stats: ServerStats = NO_STATS) -> None:
        """`interval`: seconds between two lines."""
        self._stats = stats
        self._refused = SparseLog(clock, interval)
        self._ended = SparseLog(clock, interval)

    def refuse(
        self,
        request: StreamedRequest,
        identity: Identity | None,
        code: int,
        text: str,
        detail: Exception | None = None,
    ) -> None:
        """Answer `request` with `code` and `text`; `detail` is for the log only."""
        self._count(detail)
        if self._refused.due():
            log.warn(
                "{path} from {address}, client {client_id}, refused with {code}: {reason} ({more} more since the last "
                "line)",
                path=request.path.decode("ascii", "replace")[:100],
                address=show_address(request.client),
                client_id=ids.show(identity.client_id) if identity else "unknown",
                code=code,
                reason=f"{text}: {detail}" if detail else text,
                more=self._refused.take_held_back(),
            )
        request.refuse(code, text)

    def ended(self, request: StreamedRequest, identity: Identity, reason: object) -> None:
        """Note why something of a stream did not go on."""
        if self._ended.due():
            log.warn(
                "the stream of client {client_id} at {address}: {reason} ({more} more since the last line)",
                client_id=ids.show(identity.client_id),
                address=show_address(request.client),
                reason=reason,
                more=self._ended.take_held_back(),
            )

    def failed(self, request: StreamedRequest, identity: Identity, failure: Failure) -> None:
        """Note that something did not work; with a traceback if it is an error of ours."""
        self._count(failure.value)
        if isinstance(failure.value, FleetspeakError):
            self.ended(request, identity, failure.value)
        elif isinstance(failure.value, TimeoutError):
            self.ended(request, identity, "it took too long")
        else:
            log.failure(
                "handling a contact of client {client_id} failed",
                failure=failure,
                client_id=ids.show(identity.client_id),
            )

    def _count(self, error: BaseException | None) -> None:
        if isinstance(error, NotAuthorized):
            self._stats.contact_refused(error.stage)


def answer_to(error: FleetspeakError) -> tuple[int, str]:
    """Status and text for a contact that ended in `error`."""
    if isinstance(error, NotAuthorized):
        return 503, "not authorized"
    if isinstance(error, NotReady):
        return 500, "Server not ready."
    if isinstance(error, StoreError):
        return 500, "error processing contact: it cannot be stored now"
    return 500, f"error processing contact: {error}"
