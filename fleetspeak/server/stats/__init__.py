"""Tells the statistics plug-ins what the server does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IServerStats
from fleetspeak.pb import common, monitoring
from fleetspeak.records import ClientData, ClientPoll
from fleetspeak.server.services.sparselog import SparseLog

LOG_INTERVAL = 10.0
"""Least seconds between two lines about plug-ins that fail: they hear of each message."""

log = Logger()


@implementer(IServerStats)
class ServerStats:
    """Passes everything on to each collector; one that fails does no harm.

    On the hot path whoever has something to tell looks at `active` first, once for all that happens together; then
    nothing is put together, and no clock is read, for nobody.  Elsewhere hooks may be called in any case.
    """

    def __init__(self, collectors: Sequence[IServerStats] = (), clock: Any = None) -> None:
        """
        @param clock: the reactor, or a `Clock`; only needed if there are collectors.
        """
        self.active = bool(collectors)
        """Whether anybody listens."""
        self._collectors = tuple(collectors)
        self._clock = clock
        self._failures = SparseLog(clock, LOG_INTERVAL)

    def seconds(self) -> float:
        """The steady clock by which everything is timed.  Only if `active`."""
        now: float = self._clock.seconds()
        return now

    def message_ingested(self, message: common.Message, backlogged: bool, client: ClientData | None) -> None:
        self._each(lambda to: to.message_ingested(message, backlogged, client))

    def message_saved(self, message: common.Message, for_client: bool, client: ClientData | None) -> None:
        self._each(lambda to: to.message_saved(message, for_client, client))

    def message_processed(
        self, message: common.Message, service: str, seconds: float, first_try: bool, client: ClientData | None
    ) -> None:
        self._each(lambda to: to.message_processed(message, service, seconds, first_try, client))

    def message_errored(
        self,
        message: common.Message,
        service: str,
        seconds: float,
        temporary: bool,
        first_try: bool,
        client: ClientData | None,
    ) -> None:
        self._each(lambda to: to.message_errored(message, service, seconds, temporary, first_try, client))

    def message_dropped(
        self, message: common.Message, service: str, first_try: bool, client: ClientData | None
    ) -> None:
        self._each(lambda to: to.message_dropped(message, service, first_try, client))

    def message_sent(self, message: common.Message, client: ClientData | None) -> None:
        self._each(lambda to: to.message_sent(message, client))

    def broadcast_sent(self, broadcast_id: bytes) -> None:
        self._each(lambda to: to.broadcast_sent(broadcast_id))

    def client_poll(self, poll: ClientPoll) -> None:
        self._each(lambda to: to.client_poll(poll))

    def contact_refused(self, stage: str) -> None:
        self._each(lambda to: to.contact_refused(stage))

    def connections_changed(self, count: int) -> None:
        self._each(lambda to: to.connections_changed(count))

    def streams_changed(self, count: int) -> None:
        self._each(lambda to: to.streams_changed(count))

    def resource_usage_received(
        self, client_id: ClientId, usage: monitoring.ResourceUsageData, client: ClientData | None
    ) -> None:
        self._each(lambda to: to.resource_usage_received(client_id, usage, client))

    def kill_notification_received(
        self, client_id: ClientId, kill: monitoring.KillNotification, client: ClientData | None
    ) -> None:
        self._each(lambda to: to.kill_notification_received(client_id, kill, client))

    def store_operation(self, name: str, seconds: float, error: Exception | None) -> None:
        self._each(lambda to: to.store_operation(name, seconds, error))

    def store_batch(self, worker: str, calls: int, requests: int, seconds: float) -> None:
        self._each(lambda to: to.store_batch(worker, calls, requests, seconds))

    def notified(self, outcome: str, seconds: float) -> None:
        self._each(lambda to: to.notified(outcome, seconds))

    def admin_called(self, method: str, code: str, seconds: float) -> None:
        self._each(lambda to: to.admin_called(method, code, seconds))

    def rows_pruned(self, table: str, rows: int) -> None:
        self._each(lambda to: to.rows_pruned(table, rows))

    def _each(self, tell: Callable[[IServerStats], None]) -> None:
        for collector in self._collectors:
            try:
                tell(collector)
            except Exception:
                if self._failures.due():
                    log.failure(
                        "the statistics plug-in {collector} failed ({more} more such failures since the last line)",
                        collector=collector,
                        more=self._failures.take_held_back(),
                    )


NO_STATS = ServerStats()
"""For nobody."""
