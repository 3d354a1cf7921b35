"""Upstream's metrics and ours: names, labels and buckets, and how label values are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleetspeak.core.series import OTHER, LabelValues, Metric, Table
from fleetspeak.pb import common
from fleetspeak.records import ClientData, Label

UPSTREAM_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Of all of upstream's histograms.  Each of ours has them as well, so that what is computed from them stays right."""

SECONDS = (0.0005, 0.001, 0.0025, *UPSTREAM_BOUNDS, 30.0, 60.0, 300.0)
"""The last one is the limit of a poll."""
MEGABYTES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, *UPSTREAM_BOUNDS, 25.0)
"""A contact has at most 21."""
RATES = (*UPSTREAM_BOUNDS, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)
"""Milliseconds of CPU a second: 1000 is one core."""
BYTES = (*UPSTREAM_BOUNDS, 1e6, 2.5e6, 5e6, 1e7, 2.5e7, 5e7, 1e8, 2.5e8, 5e8, 1e9, 2.5e9, 1e10)
NUMBERS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

CAPPED = (
    "source_service",
    "destination_service",
    "service",
    "message_type",
    "client_labels",
    "client_data_labels",
    "scope",
    "version",
    "reason",
)
"""The labels whose values clients can choose."""

KNOWN_SERVICES = ("system", "client")
KNOWN_TYPES = (
    "MessageAck",
    "MessageError",
    "ClientInfo",
    "ResourceUsage",
    "KillNotification",
    "RekeyRequest",
    "Die",
    "RemoveService",
    "RestartService",
)
"""Of service `system`: they always have a place."""

STAGES = ("connection", "contact", "client", "signatures", "key", "file")
"""Of `fleetspeak.interfaces.IServerStats.contact_refused`."""

MAX_LINES = 15_000
"""Of one table on the page: the page is at most some twenty megabytes, whoever makes names up."""

MAX_LABELS = 32
"""Of a client with more of them nothing is counted by its labels: it may have as many as fit into a contact."""

MAX_TEXTS = 1000
"""Sets of labels whose text is remembered."""


class Tables:
    """Everything that is counted."""

    def __init__(self, capped: Mapping[str, LabelValues], max_cells: int) -> None:
        def table(labels: str, *metrics: Metric) -> Table:
            lines = sum(len(metric.bounds) + 3 if metric.type == "histogram" else 1 for metric in metrics)
            cells = min(max_cells, MAX_LINES // lines)
            return Table(labels.split(), *metrics, capped=capped, max_cells=cells)

        processed = "backlogged source_service destination_service message_type client_labels"
        self.ingested = table(
            processed,
            Metric("fleetspeak_messages_ingested_total", "Messages that services were to process."),
            Metric("fleetspeak_messages_ingested_payload_bytes_size", "Bytes of their payloads."),
        )
        self.sent = table(
            "source_service destination_service message_type client_labels",
            Metric("fleetspeak_messages_sent_total", "Messages handed to clients."),
            Metric("fleetspeak_messages_sent_payload_bytes_size", "Bytes of their payloads."),
        )
        self.saved = table(
            "service message_type for_client client_labels",
            Metric("fleetspeak_messages_saved_total", "Messages stored for the first time."),
            Metric("fleetspeak_messages_saved_payload_bytes_size", "Bytes of their payloads."),
        )
        self.processed = table(
            "message_type service is_first_try client_labels",
            _seconds("fleetspeak_server_messages_processed_latency", "For messages that were processed."),
        )
        self.errored = table(
            "message_type is_temp is_first_try client_labels",
            _seconds("fleetspeak_server_messages_errored_latency", "For messages that were not processed."),
        )
        self.dropped = table(
            "service message_type is_first_try client_labels",
            Metric("fleetspeak_server_messages_dropped_total", "Messages put off because a service is overloaded."),
        )
        self.polls = table("http_status_code poll_type cache_hit", *_polls())
        self.operations = table(
            "operation errored",
            _seconds("fleetspeak_server_datastore_operations_completed_latency", "For operations of the store."),
        )
        self.usage = table("client_data_labels blacklisted scope version", *_usage())
        self.kills = table(
            "client_data_labels blacklisted service reason",
            Metric("fleetspeak_server_kill_notifications_received_total", "Processes that clients killed."),
        )
        # Ours.
        self.broadcasts = table(
            "", Metric("fleetspeak_broadcast_messages_sent_total", "Clients that a broadcast was sent to.")
        )
        self.refused = table(
            "stage",
            Metric("fleetspeak_contacts_refused_total", "Clients that the authorizer refused, by stage."),
        )
        self.connections = table(
            "", Metric("fleetspeak_connections_open", "Connections of clients that are open.", "gauge")
        )
        self.streams = table("", Metric("fleetspeak_streams_open", "Clients that have a stream here.", "gauge"))
        self.batches = table(
            "worker",
            _seconds("fleetspeak_store_batch_seconds", "For a transaction of the store."),
            Metric("fleetspeak_store_batch_calls", "Calls in a transaction of the store.", "histogram", NUMBERS),
            Metric("fleetspeak_store_batch_requests", "Requests in a transaction of the store.", "histogram", NUMBERS),
        )
        self.notifications = table(
            "outcome", _seconds("fleetspeak_notifications_seconds", "For telling other servers of messages.")
        )
        self.admin_calls = table(
            "method code", _seconds("fleetspeak_admin_calls_seconds", "For calls of the admin API.")
        )
        self.pruned = table("table", Metric("fleetspeak_rows_pruned_total", "Old rows that were deleted."))

    def begin(self) -> None:
        """Let there be a 0 where the first time matters: Prometheus sees an increase of what it has seen before."""
        for table in (self.broadcasts, self.connections, self.streams):
            table.cell()
        for stage in STAGES:
            self.refused.cell(stage)

    def all(self) -> Sequence[Table]:
        """All of them, in order."""
        return [one for one in vars(self).values() if isinstance(one, Table)]


def _seconds(name: str, explanation: str) -> Metric:
    return Metric(name, f"Seconds. {explanation}", "histogram", SECONDS)


def _polls() -> list[Metric]:
    polls = "fleetspeak_server_client_polls"
    return [
        Metric(f"{polls}_total", "Exchanges of contact data with clients."),
        _seconds(f"{polls}_operation_time_latency", "For all of it."),
        _seconds(f"{polls}_read_time_latency", "For reading."),
        _seconds(f"{polls}_write_time_latency", "For writing."),
        Metric(f"{polls}_read_megabytes_size_distribution", "10^6 bytes read.", "histogram", MEGABYTES),
        Metric(f"{polls}_write_megabytes_size_distribution", "10^6 bytes written.", "histogram", MEGABYTES),
    ]


def _usage() -> list[Metric]:
    usage = "fleetspeak_server_resource_usage_data_received"

    def rate(name: str, what: str) -> Metric:
        return Metric(f"{usage}_{name}", f"CPU ms/s of a client or its process, {what}.", "histogram", RATES)

    def size(name: str, what: str) -> Metric:
        return Metric(f"{usage}_{name}", f"Bytes of memory of a client or its process, {what}.", "histogram", BYTES)

    return [
        Metric(f"{usage}_total", "Reports of what clients and their processes use."),
        rate("mean_user_cpu_rate_distribution", "user, mean"),
        rate("max_user_cpu_rate_distribution", "user, most"),
        rate("mean_system_cpu_rate_distribution", "system, mean"),
        rate("max_system_cpu_rate", "system, most"),  # so upstream: without _distribution
        size("mean_resident_memory_bytes_distribution", "mean"),
        size("max_resident_memory_bytes_distribution", "most"),
    ]


class LabelTexts:
    """Sets of labels as text, worked out once each."""

    def __init__(self) -> None:
        self._pairs: dict[frozenset[Label], str] = {}

    def pairs(self, client: ClientData | None) -> str:
        """``service:label`` pairs, sorted; empty if nothing is known of the client."""
        if client is None or not client.labels:
            return ""
        if len(client.labels) > MAX_LABELS:
            return OTHER
        text = self._pairs.get(client.labels)
        if text is None:
            if len(self._pairs) >= MAX_TEXTS:
                self._pairs.clear()
            text = self._pairs[client.labels] = ",".join(sorted(f"{one.service}:{one.label}" for one in client.labels))
        return text

    @staticmethod
    def bare(client: ClientData | None) -> str:
        """The bare texts, sorted.  Asked for too rarely to be remembered."""
        if client is None:
            return ""
        if len(client.labels) > MAX_LABELS:
            return OTHER
        return ",".join(sorted(one.label for one in client.labels))


def flag(value: bool) -> str:
    """As Go writes it."""
    return "true" if value else "false"


def payload_size(message: common.Message) -> int:
    """Bytes of the type URL and of the value; 0 without data."""
    if not message.HasField("data"):
        return 0
    return len(message.data.type_url.encode()) + len(message.data.value)
