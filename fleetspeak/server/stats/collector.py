"""Counts what a server does under upstream's names, and under some of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from twisted.logger import Logger
from zope.interface import implementer

from fleetspeak.core.series import MAX_CELLS, LabelValues, Metric, Reading
from fleetspeak.ids import ClientId
from fleetspeak.interfaces import IServerStats
from fleetspeak.pb import common, monitoring
from fleetspeak.records import ClientData, ClientPoll
from fleetspeak.server.stats.names import (
    CAPPED,
    KNOWN_SERVICES,
    KNOWN_TYPES,
    LabelTexts,
    Tables,
    flag,
    payload_size,
)

Gauge = float | Mapping[tuple[str, ...], float]
"""A number, or numbers by label values."""

log = Logger()


@implementer(IServerStats)
class MetricsCollector:
    """Counts; `read` gives what there is to expose.  All in the reactor's thread."""

    def __init__(self, services: Iterable[str] = (), max_cells: int = MAX_CELLS) -> None:
        """
        @param services: those that are configured: their names always have a place.
        @param max_cells: combinations of label values in one table.
        """
        names = (*KNOWN_SERVICES, *services)
        expected = {"message_type": KNOWN_TYPES, **dict.fromkeys(("service", "source_service"), names)}
        expected["destination_service"] = names
        self._capped = {label: LabelValues(expected=expected.get(label, ())) for label in CAPPED}
        self._tables = Tables(self._capped, max_cells)
        self._tables.begin()
        self._texts = LabelTexts()
        self._gauges: list[tuple[Metric, tuple[str, ...], Callable[[], Gauge]]] = []

    def watch(self, name: str, explanation: str, read: Callable[[], Gauge], labels: tuple[str, ...] = ()) -> None:
        """Expose what `read` says when it is asked, as a gauge.

        @param labels: if there are any, `read` gives a mapping by their values.
        """
        self._gauges.append((Metric(name, explanation, "gauge"), labels, read))

    def read(self) -> list[Reading]:
        """All that is counted, as it is now."""
        readings = [table.read() for table in self._tables.all()]
        for metric, labels, read in self._gauges:
            try:
                value = read()
            except Exception:
                log.failure("cannot read {metric}", metric=metric.name)
                continue
            rows = value.items() if isinstance(value, Mapping) else [((), value)]
            readings.append(Reading(labels, [metric], [(values, [number]) for values, number in rows]))
        return [*readings, self._capping()]

    def _capping(self) -> Reading:
        """So that nobody wonders where the rest is."""
        refused = [((label,), [values.refused]) for label, values in self._capped.items()]
        refused.append((("combination",), [sum(table.overflowed for table in self._tables.all())]))
        metric = Metric(
            "fleetspeak_metrics_values_capped_total",
            "How often a label value, or a combination of them, was counted as other because there were too many.",
        )
        return Reading(("label",), [metric], refused)

    # -- messages

    def message_ingested(self, message: common.Message, backlogged: bool, client: ClientData | None) -> None:
        cell = self._tables.ingested.cell(
            flag(backlogged),
            message.source.service_name,
            message.destination.service_name,
            message.message_type,
            self._texts.pairs(client),
        )
        cell[0] += 1
        cell[1] += payload_size(message)

    def message_saved(self, message: common.Message, for_client: bool, client: ClientData | None) -> None:
        cell = self._tables.saved.cell(
            message.destination.service_name, message.message_type, flag(for_client), self._texts.pairs(client)
        )
        cell[0] += 1
        cell[1] += payload_size(message)

    def message_processed(
        self, message: common.Message, service: str, seconds: float, first_try: bool, client: ClientData | None
    ) -> None:
        self._tables.processed.cell(message.message_type, service, flag(first_try), self._texts.pairs(client))[
            0
        ].observe(seconds)

    def message_errored(
        self,
        message: common.Message,
        service: str,
        seconds: float,
        temporary: bool,
        first_try: bool,
        client: ClientData | None,
    ) -> None:
        self._tables.errored.cell(message.message_type, flag(temporary), flag(first_try), self._texts.pairs(client))[
            0
        ].observe(seconds)

    def message_dropped(
        self, message: common.Message, service: str, first_try: bool, client: ClientData | None
    ) -> None:
        self._tables.dropped.cell(service, message.message_type, flag(first_try), self._texts.pairs(client))[0] += 1

    def message_sent(self, message: common.Message, client: ClientData | None) -> None:
        cell = self._tables.sent.cell(
            message.source.service_name,
            message.destination.service_name,
            message.message_type,
            self._texts.pairs(client),
        )
        cell[0] += 1
        cell[1] += payload_size(message)

    def broadcast_sent(self, broadcast_id: bytes) -> None:
        self._tables.broadcasts.cell()[0] += 1

    # -- clients

    def client_poll(self, poll: ClientPoll) -> None:
        count, *_ = cell = self._tables.polls.cell(str(poll.status), poll.type, flag(poll.cache_hit))
        cell[0] = count + 1
        cell[1].observe(poll.seconds)
        cell[2].observe(poll.read_seconds)
        cell[3].observe(poll.write_seconds)
        cell[4].observe(poll.read_bytes / 1e6)
        cell[5].observe(poll.write_bytes / 1e6)

    def contact_refused(self, stage: str) -> None:
        self._tables.refused.cell(stage)[0] += 1

    def connections_changed(self, count: int) -> None:
        self._tables.connections.cell()[0] = count

    def streams_changed(self, count: int) -> None:
        self._tables.streams.cell()[0] = count

    def resource_usage_received(
        self, client_id: ClientId, usage: monitoring.ResourceUsageData, client: ClientData | None
    ) -> None:
        used = usage.resource_usage
        cell = self._tables.usage.cell(
            self._texts.bare(client), flag(client is not None and client.blacklisted), usage.scope, usage.version
        )
        cell[0] += 1
        cell[1].observe(used.mean_user_cpu_rate)
        cell[2].observe(used.max_user_cpu_rate)
        cell[3].observe(used.mean_system_cpu_rate)
        cell[4].observe(used.max_system_cpu_rate)
        cell[5].observe(used.mean_resident_memory)
        cell[6].observe(used.max_resident_memory)

    def kill_notification_received(
        self, client_id: ClientId, kill: monitoring.KillNotification, client: ClientData | None
    ) -> None:
        known = monitoring.KillNotification.Reason.DESCRIPTOR.values_by_number.get(kill.reason)
        self._tables.kills.cell(
            self._texts.bare(client),
            flag(client is not None and client.blacklisted),
            kill.service,
            known.name if known is not None else str(kill.reason),
        )[0] += 1

    # -- the server's own work

    def store_operation(self, name: str, seconds: float, error: Exception | None) -> None:
        self._tables.operations.cell(name, flag(error is not None))[0].observe(seconds)

    def store_batch(self, worker: str, calls: int, requests: int, seconds: float) -> None:
        cell = self._tables.batches.cell(worker)
        cell[0].observe(seconds)
        cell[1].observe(calls)
        cell[2].observe(requests)

    def notified(self, outcome: str, seconds: float) -> None:
        self._tables.notifications.cell(outcome)[0].observe(seconds)

    def admin_called(self, method: str, code: str, seconds: float) -> None:
        self._tables.admin_calls.cell(method, code)[0].observe(seconds)

    def rows_pruned(self, table: str, rows: int) -> None:
        self._tables.pruned.cell(table)[0] += rows
